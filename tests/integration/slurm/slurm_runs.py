"""Runs on a real SLURM site, with a launcher that follows a script: what SLURM does to a job, without training."""

import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm_site import SlurmSite

from sam3ft_api.plan import JobPlan, SlurmPlacement
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.backend import Handle, Observed, RunState
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.backend import SlurmBackend
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.record import JobReport, read_record, read_report
from sam3ft_launch.slurm.settings import SlurmSettings

FAKE_LAUNCHER = Path(__file__).parents[2] / "assets/launch/fake_launcher.py"
WITHIN_S = 120.0


@dataclass
class Runs:
    """Runs in one folder; what a test leaves is ended.

    Attributes:
        site: on which they are.
        folder: of the run folders.
        settings: of the site, as a user would write them.
        backend: that looks after them.
        handles: all that were submitted.
    """

    site: SlurmSite
    folder: Path
    settings: SlurmSettings = field(default_factory=lambda: SlurmSettings(poll_s=0.2))
    backend: SlurmBackend = field(init=False)
    handles: list[Handle] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the backend."""
        self.backend = self.new_backend()

    def new_backend(self) -> SlurmBackend:
        """Return another backend, as a second process has one."""
        return SlurmBackend(
            self.folder / "runs",
            settings=self.settings,
            client=SlurmClient(environ=self.site.environ, answer_s=15.0),
            launcher_command=(sys.executable, str(FAKE_LAUNCHER)),
        )

    def plan(self, script: str, *, name: str = "cells", **changes: Any) -> JobPlan:
        """Return a plan whose launcher follows `script`; `slurm` may be given as a dict, more variables as `env`."""
        slurm = SlurmPlacement(site="here", **changes.pop("slurm", {}))
        env = {"SCRIPT": script, **changes.pop("env", {})}
        nodes = changes.get("nodes", 1)
        values = {"uid": uuid.uuid4().hex, "min_nodes": nodes, "max_nodes": nodes, **changes}
        config = TrainingConfig.model_validate({"scratch": {"train_batch_size": 16}})
        return JobPlan(name=name, backend="slurm", config=config, env=env, slurm=slurm, **values)

    def submit(self, script: str, **changes: Any) -> Handle:
        """Submit such a plan."""
        handle = self.backend.submit(self.backend.render(self.plan(script, **changes)))
        self.handles.append(handle)
        return handle

    def until(self, handle: Handle, holds: Callable[[Observed], bool], *, within_s: float = WITHIN_S) -> Observed:
        """Look until a condition holds."""
        give_up_s = time.monotonic() + within_s
        while not holds(observed := self.backend.observe(handle)):
            assert time.monotonic() < give_up_s, f"still {observed}\n{self.log(handle)}"
            time.sleep(0.1)
        return observed

    def until_running(self, handle: Handle, *, starts: int = 1) -> Observed:
        """Look until the launcher has been started so often, and reports progress."""
        return self.until(handle, lambda seen: seen.state is RunState.RUNNING and num_starts(handle) >= starts)

    def until_over(self, handle: Handle) -> Observed:
        """Look until the run has ended."""
        return self.until(handle, lambda seen: seen.state.is_terminal)

    def job_id(self, handle: Handle) -> str:
        """Return the number of the attempt's job."""
        record = read_record(folder_of(handle).slurm)
        assert record is not None
        return record.job_id

    def report(self, handle: Handle) -> JobReport:
        """Return the job's own report."""
        report = read_report(folder_of(handle).slurm_job, attempt=handle.attempt)
        assert report is not None, self.log(handle)
        return report

    def log(self, handle: Handle) -> str:
        """Return the job's log."""
        path = folder_of(handle).log
        return path.read_text(errors="replace") if path.exists() else "there is no log"

    def num_jobs(self, handle: Handle) -> int:
        """Return how many jobs SLURM knows under the attempt's name, ended ones with them."""
        record = read_record(folder_of(handle).slurm)
        assert record is not None
        return len(SlurmClient(environ=self.site.environ).named(record.job_name))

    def close(self) -> None:
        """End what still runs."""
        for handle in self.handles:
            self.backend.delete(handle)


def folder_of(handle: Handle) -> RunDir:
    """Return the run folder."""
    return RunDir(Path(handle.location))


def num_starts(handle: Handle) -> int:
    """Return how often a launcher was started on the first node."""
    path = folder_of(handle).work / "starts"
    return len(path.read_text().split()) if path.exists() else 0


def uid_of(runs: Runs, name: str = "cells") -> str:
    """Return the identity of the run in a folder."""
    record = read_record(RunDir(runs.folder / "runs" / name).slurm)
    assert record is not None
    return record.uid


def commits_of(events: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return the steps that a run has committed, in order and after a 0, having seen that its history is sound.

    Each commit is newer than the one before, and each start but the first is at the newest one.
    """
    commits = [0]
    for event in events:
        if event["event"] == "checkpoint_committed":
            assert event["step"] > commits[-1], "a step was committed twice"
            commits.append(event["step"])
        if event["event"] == "resumed":
            assert event["step"] == commits[-1]
    return commits


def fill(site: SlurmSite, *, partition: str, seconds: int) -> None:
    """Submit jobs of another kind that take every core of the site for some seconds."""
    script = site.folder / f"fill-{seconds}.sh"
    script.write_text(f"#!/bin/bash\nsleep {seconds}\n")
    for _ in site.node_names:
        site.ask(["sbatch", "--parsable", f"--partition={partition}", "-N1", "--exclusive", str(script)])
