"""An elastic run of the real trainer, a job for each node.

One goes, the other trains on, a new one joins; the first goes and comes back; when it is cancelled all are gone.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_bench import Cli
from slurm_site import SlurmSite
from waiting import wait_for

from sam3ft_launch.backend import Handle, RunState
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.backend import SlurmBackend
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.record import SlurmRecord, read_record

EXAMPLE = Path(__file__).parents[3] / "examples/blood-cells.yaml"
SETTINGS = (
    "training.epochs=null",
    "training.maxSteps=100000",
    "training.resolution=28",
    "model.uri=preset:tiny-nano",
    "checkpoint.everySteps=20",
    "evaluation.baseline=false",
    "evaluation.everyEpochs=null",
    "workers.nodes=2",
    "workers.minNodes=1",
    "workers.gpusPerNode=0",
)
GOES_ON_WITHIN_S = 25.0


class Elastic:
    """A run in a folder, looked at through its files and the scheduler."""

    def __init__(self, cli: Cli, folder: RunDir, site: SlurmSite) -> None:
        self.cli, self.folder, self.site = cli, folder, site
        record = self.record
        self.handle = Handle("slurm", record.uid, record.attempt, str(folder.root))
        self.backend = SlurmBackend(folder.root.parent, client=SlurmClient(environ=site.environ))

    @property
    def record(self) -> SlurmRecord:
        found = read_record(self.folder.slurm)
        assert found is not None
        return found

    @property
    def own_log(self) -> Path:
        """Of the second node's job."""
        return self.folder.node_log(self.record.node_jobs[0].job_id)

    def progress(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.folder.progress.read_text()))
        except (OSError, ValueError):
            return {}

    def wait(self, what: str, holds: Callable[[dict[str, Any]], bool], *, within_s: float = 120.0) -> int:
        """Return the step at which something holds."""
        wait_for(what, lambda: holds(self.progress()), within_s=within_s)
        return int(self.progress()["step"])


@pytest.mark.alone  # it measures time
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_go_and_come_back_and_none_outlives_the_first(slurm_site: SlurmSite, tmp_path: Path):
    settings = tmp_path / "slurm.yaml"
    settings.write_text("poll_s: 0.5\nelastic: true\n")
    cli = Cli(tmp_path, {**slurm_site.environ, "SAM3FT_SLURM_SETTINGS": str(settings)})
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    done = cli("run", str(EXAMPLE), "--backend", "slurm", "--detach", *words)
    assert 0 == done.returncode, done.stderr
    folder = RunDir(tmp_path / "runs/blood-cells")
    run = Elastic(cli, folder, slurm_site)
    try:
        assert [1] == [job.slot for job in run.record.node_jobs]
        step = run.wait("both train", lambda told: told.get("world_size") == 2 and told.get("step", 0) > 0)
        assert run.own_log.exists(), "no file has two machines as writers"

        begun_s = time.monotonic()
        slurm_site.ask(["scancel", run.record.node_jobs[0].job_id])
        run.wait("one goes on", lambda told: told.get("world_size") == 1 and told.get("step", 0) > step)
        print(f"one of two nodes was taken away: the other went on after {time.monotonic() - begun_s:.1f} s")
        assert time.monotonic() - begun_s < GOES_ON_WITHIN_S

        wait_for("the place is empty", lambda: _mended(run) == 1, within_s=90)
        begun_s = time.monotonic()
        step = run.wait("a new node trains", lambda told: told.get("world_size") == 2)
        print(f"a new node trained with it after {time.monotonic() - begun_s:.1f} s")
        step = run.wait("both go on", lambda told: told.get("step", 0) > step)

        begun_s = time.monotonic()
        slurm_site.ask(["scontrol", "requeue", run.record.job_id])
        run.wait("one is left", lambda told: told.get("world_size") == 1 or told.get("state") != "training")
        step = run.wait(
            "both train again", lambda told: told.get("world_size") == 2 and told.get("step", 0) > step, within_s=180
        )
        print(f"the first node's job was requeued: both trained again after {time.monotonic() - begun_s:.1f} s")
    finally:
        if text := folder.log.read_text() if folder.log.exists() else "":
            print(text[-6000:])
        for path in folder.work.glob("node-*.log"):
            print(path.read_text()[-3000:])
        slurm_site.ask(["scancel", run.record.job_id])
    wait_for("it has ended", lambda: run.backend.observe(run.handle).state.is_terminal, within_s=120)
    assert RunState.INTERRUPTED is run.backend.observe(run.handle).state
    wait_for("no job is left", lambda: all(job.state.is_over for job in _jobs(run)), within_s=60)
    assert not folder.slurm_environment(1).exists()


def _mended(run: Elastic) -> int:
    run.backend.mend(run.handle)
    return run.record.node_jobs[0].generation


def _jobs(run: Elastic) -> list[Any]:
    names = [run.record.job_name, *(job.job_name for job in run.record.node_jobs)]
    client = SlurmClient(environ=run.site.environ)
    return [job for name in names for job in client.named(name)]
