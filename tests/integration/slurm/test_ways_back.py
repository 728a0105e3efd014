"""What a site does to a run that trains, each with the seconds of the way back: no committed step is lost, no image is
used twice in an epoch, and what only the scheduler suffers costs no step at all.

`test_what_slurm_does` has the same, and more, with a launcher that follows a script, in seconds.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cli_bench import Cli, json_lines
from fault_bench import assert_each_image_of_each_epoch_once
from slurm_fixtures import running_slurm
from slurm_runs import commits_of, fill
from slurm_site import HIGH, SiteSettings, SlurmSite
from waiting import wait_for

from sam3ft_api.errors import InvalidConfig
from sam3ft_faults.record import Figures, parts_between
from sam3ft_launch.backend import TransientError
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.record import read_record

EXAMPLE = Path(__file__).parents[3] / "examples/blood-cells.yaml"
EVERY = 10
SETTINGS = (
    "training.epochs=null",
    "training.maxDuration=null",
    "training.maxSteps=100000",
    "training.resolution=28",
    "training.config.runtime.trace_samples=true",
    "training.config.runtime.log_every=1",
    "training.config.runtime.tensorboard=false",
    "model.uri=preset:tiny-nano",
    f"checkpoint.everySteps={EVERY}",
    "evaluation.baseline=false",
    "evaluation.everyEpochs=null",
    "workers.nodes=2",
    "workers.gpusPerNode=0",
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@dataclass
class Training:
    """A run of the real trainer on two of a site's nodes.

    Attributes:
        cli: its commands.
        site: where it runs.
        words: when its job was first seen in another state, seconds since the epoch.
    """

    cli: Cli
    site: SlurmSite
    words: list[tuple[float, str]] = field(default_factory=list)

    @property
    def folder(self) -> RunDir:
        """The run's."""
        return RunDir(self.cli.folder / "runs/blood-cells")

    @property
    def job_id(self) -> str:
        """Of the run's job."""
        record = read_record(self.folder.slurm)
        assert record is not None
        return record.job_id

    def events(self, *names: str, since_s: float = 0.0) -> list[dict[str, Any]]:
        """Return rank 0's events of these names, the last line possibly not yet whole."""
        path = self.folder.work / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        found = json_lines(text[: text.rfind("\n") + 1])
        return [event for event in found if event["event"] in names and event["ts"] > since_s]

    def end(self) -> None:
        """Have the run save and end."""
        done = self.cli("cancel")
        assert 0 == done.returncode, done.stderr
        wait_for("it has ended", lambda: self.words[-1][1] not in ("RUNNING", "COMPLETING"), within_s=120)

    def wait_for_steps(self, count: int, *, since_s: float, within_s: float = 300.0) -> None:
        """Wait for so many steps after a moment."""
        wait_for(
            f"{count} steps", lambda: len(self.events("train_interval", since_s=since_s)) >= count, within_s=within_s
        )

    def watch(self, stopped: threading.Event) -> None:
        """Note the states of the job until told to stop; a scheduler that does not answer has none."""
        client = SlurmClient(environ=self.site.environ, answer_s=2.0)
        while not stopped.wait(0.1):
            try:
                found = client.jobs([self.job_id])
            except (TransientError, InvalidConfig):  # the scheduler is away, by this test's doing
                continue
            if found and (not self.words or self.words[-1][1] != found[self.job_id].word):
                self.words.append((time.time(), found[self.job_id].word))


@contextmanager
def training(tmp_path: Path, settings: SiteSettings, *more: str) -> Iterator[Training]:
    """Have a run train on a site until it has committed; it is ended afterwards."""
    with running_slurm(settings) as site:
        file = tmp_path / "slurm.yaml"
        file.write_text("poll_s: 0.5\n")
        cli = Cli(tmp_path, {**site.environ, "SAM3FT_SLURM_SETTINGS": str(file)})
        words = [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]
        done = cli("run", str(EXAMPLE), "--backend", "slurm", "--detach", *words)
        assert 0 == done.returncode, done.stderr
        run, stopped = Training(cli, site), threading.Event()
        watching = threading.Thread(target=run.watch, args=(stopped,))
        watching.start()
        try:
            wait_for("a commit", lambda: run.events("checkpoint_committed"), within_s=300)
            yield run
        except BaseException:
            print(run.folder.log.read_text()[-4000:])
            raise
        finally:
            stopped.set()
            watching.join()
            site.ask(["scancel", run.job_id], check=False)


def preempt(run: Training) -> None:
    fill(run.site, partition=HIGH, seconds=2)


def requeue(run: Training) -> None:
    run.site.ask(["scontrol", "requeue", run.job_id])


def lose_a_node(run: Training) -> None:
    last = run.site.ask(["squeue", "-h", "-j", run.job_id, "-o", "%N"]).strip()
    second = run.site.ask(["scontrol", "show", "hostnames", last]).split()[-1]
    run.site.ask(["scontrol", "update", f"nodename={second}", "state=down", "reason=test"])


def let_time_pass(run: Training) -> None:
    wait_for("the job leaves its nodes", lambda: run.words[-1][1] != "RUNNING", within_s=300)


@pytest.mark.parametrize(
    ("name", "strike", "more", "most_again"),
    [
        ("preempted", preempt, (), 0),
        ("requeued", requeue, (), 0),
        (
            "time limit",
            let_time_pass,
            ("slurm.site=here", "slurm.timeLimit=2m", "workers.terminationGracePeriodSeconds=20"),
            0,
        ),
        ("node down", lose_a_node, (), EVERY),  # nobody is asked to save
    ],
)
def test_a_run_that_leaves_its_nodes_goes_on_where_it_was(
    tmp_path: Path,
    figures: Figures,
    name: str,
    strike: Callable[[Training], None],
    more: tuple[str, ...],
    most_again: int,
):
    with training(tmp_path, SiteSettings(nodes=3, grace_s=60), *more) as run:
        struck_s = time.time()
        strike(run)
        wait_for("it goes on", lambda: run.events("resumed", since_s=struck_s), within_s=300)
        run.wait_for_steps(2 * EVERY, since_s=run.events("resumed")[-1]["ts"])
        run.end()
    (resumed,) = run.events("resumed")
    parts = parts_of_way(run, struck_s, resumed)
    done = max(event["step"] for event in run.events("train_interval") if event["ts"] < resumed["ts"])
    again = done - resumed["step"]
    print(f"{name}: {', '.join(f'{part} {seconds:.1f} s' for part, seconds in parts.items())}; {again} steps again")

    assert again <= most_again
    check_history(run)
    by_part = {f"s {part}": seconds for part, seconds in parts.items()}
    figures.add(f"way back of a run on SLURM: {name}", seed="none", steps_done_again=again, **by_part)


def restart_controller(run: Training) -> None:
    run.site.controller.stop()
    run.site.controller.start()


def silence_controller(run: Training) -> None:
    run.site.controller.stop()
    time.sleep(120)
    run.site.controller.start()


def restart_munge(run: Training) -> None:
    run.site.munge.stop()
    time.sleep(5)
    run.site.munge.start()


@pytest.mark.parametrize(
    ("name", "strike"),
    [
        ("slurmctld restarted", restart_controller),
        ("slurmctld stopped for two minutes", silence_controller),
        ("munge stopped for five seconds", restart_munge),
    ],
)
def test_what_only_the_scheduler_suffers_costs_a_run_no_step(
    tmp_path: Path, figures: Figures, name: str, strike: Callable[[Training], None]
):
    with training(tmp_path, SiteSettings()) as run:
        struck_s = time.time()
        strike(run)
        run.wait_for_steps(EVERY, since_s=time.time())
        times = [event["ts"] for event in run.events("train_interval", since_s=struck_s)]
        wait_for("the scheduler answers", lambda: run.site.ask(["squeue", "-h"], check=False), within_s=60)
        assert [] == [word for at_s, word in run.words if at_s > struck_s], "the job has left its state"
        run.end()
    longest_s = max(later - earlier for earlier, later in pairwise(times))
    print(f"{name}: {len(times)} steps meanwhile, at most {longest_s:.1f} s between two of them")

    assert [] == run.events("resumed")
    check_history(run)
    figures.add(f"way back of a run on SLURM: {name}", seed="none", s_without_a_step_at_most=longest_s)


def parts_of_way(run: Training, struck_s: float, resumed: dict[str, Any]) -> dict[str, float]:
    """Return seconds by part from a strike to the first new step, in order; they add up to the whole."""
    ran_at_s = [at_s for at_s, word in run.words if word == "RUNNING" and at_s < resumed["ts"]][-1]
    saved_at_s = max(
        event["ts"] for event in run.events("train_interval", "checkpoint_committed") if event["ts"] < ran_at_s
    )
    marks = {
        "until the last step or save": saved_at_s,
        "until the job runs again": ran_at_s,
        "until the group has resumed": resumed["ts"],
        "until the next step": run.events("train_interval", since_s=resumed["ts"])[0]["ts"],
    }
    return parts_between(struck_s, marks)


def check_history(run: Training) -> None:
    """Commits and starts follow each other, and no image is used twice in an epoch."""
    commits = commits_of(run.events("checkpoint_committed", "resumed"))
    assert_each_image_of_each_epoch_once(run.folder.work, steps=commits[-1], world_size=2)
