"""Which run a verb means: a run folder, the name of a run, its YAML file, or the newest run below `runs/`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.backend import Handle
from sam3ft_launch.folder.ends import PastEnd
from sam3ft_launch.folder.rundir import RUNS_FOLDER, RunDir
from sam3ft_launch.local.backend import LocalBackend
from sam3ft_launch.local.record import RunRecord, read_record
from sam3ft_launch.prepare import load
from sam3ft_launch.slurm import record as slurm_record
from sam3ft_launch.slurm.backend import SlurmBackend
from sam3ft_launch.slurm.record import JobReport, read_report
from sam3ft_launch.slurm.settings import read_settings, settings_file

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="A run folder, the name of a run below runs/, or its YAML file. Default: the newest run below runs/.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Found:
    """A run that was found by its folder.

    Attributes:
        folder: in which it lies.
        backend: that looks after it.
        handle: of its newest attempt.
        name: of the run.
        processes: all worker processes.
        driver: who drives it, in words: a process, or a job.
        started_unix_s: when the attempt was begun.
        is_submitted: False where it is not known whether SLURM took the attempt: it is handed in again.
        record: the supervisor's record; None on SLURM.
    """

    folder: RunDir
    backend: LocalBackend | SlurmBackend
    handle: Handle
    name: str
    processes: int
    driver: str
    started_unix_s: float
    is_submitted: bool = True
    record: RunRecord | None = None

    def is_live(self) -> bool:
        """True while somebody drives it.

        Raises:
            TransientError: the scheduler did not answer.
        """
        return self.record.is_live if self.record else not self.backend.observe(self.handle).state.is_terminal

    def ends(self) -> tuple[PastEnd, ...]:
        """Return how launchers of the attempt have ended, success apart."""
        account = self._account()
        return tuple(end for end in (account.ends if account else ()) if end.code != 0)

    def ended_unix_s(self) -> float | None:
        """Return when the attempt ended; None before that."""
        account = self._account()
        return account.ended_unix_s if account else None

    def _account(self) -> RunRecord | JobReport | None:
        return self.record or read_report(self.folder.slurm_job, attempt=self.handle.attempt)


def locate(run: str | None) -> Found:
    """Return the run that is meant.

    Raises:
        InvalidConfig: there is no such run; the message lists the ones there are.
    """
    runs = Path(RUNS_FOLDER).absolute()
    folder = _newest(runs) if run is None else _named(run, runs)
    found = look_into(folder) if folder else None
    if found is None:
        raise InvalidConfig(f"{_what(run)}; {_known(runs)}")
    return found


def look_into(folder: RunDir) -> Found | None:
    """Return the run of a folder; None when it holds none.

    Raises:
        StorageDenied: its record cannot be read.
        InvalidConfig: the settings of the SLURM site are wrong.
    """
    root = folder.root
    if (record := read_record(folder.record)) is not None:
        handle = Handle(LocalBackend.name, record.uid, record.attempt, str(root))
        backend = LocalBackend(root.parent, run_dir=root)
        driver = f"process {record.supervisor.pid} on {record.host}"
        return Found(
            folder, backend, handle, record.name, record.processes, driver, record.started_unix_s, record=record
        )
    if (job := slurm_record.read_record(folder.slurm)) is not None:
        handle = Handle(SlurmBackend.name, job.uid, job.attempt, str(root))
        settings = read_settings(settings_file(os.environ))
        driver = f"job {job.job_id or job.job_name}"
        processes = job.nodes * job.processes
        on_slurm = SlurmBackend(root.parent, run_dir=root, settings=settings)
        is_submitted = bool(job.job_id or job.refused)
        return Found(folder, on_slurm, handle, job.name, processes, driver, job.submitted_unix_s, is_submitted)
    return None


def _named(run: str, runs: Path) -> RunDir:
    path = Path(run).absolute()
    if path.is_file():
        return RunDir(runs / load(path, assignments=()).name)
    return RunDir(path if path.is_dir() or "/" in run else runs / run)


def _newest(runs: Path) -> RunDir | None:
    records = sorted(_records(runs), key=lambda path: path.stat().st_mtime)
    return RunDir(records[-1].parent) if records else None


def _what(run: str | None) -> str:
    return f"no run is found in {RUNS_FOLDER}/" if run is None else f"{run!r} names no run"


def _known(runs: Path) -> str:
    names = sorted(path.parent.name for path in _records(runs))
    if not names:
        return f"start one with `sam3ft run FILE`, or name a run folder (there is none below {runs})"
    return f"known below {runs}: {', '.join(names[:20])}"


def _records(runs: Path) -> list[Path]:
    return [path for name in ("run.json", "slurm.json") for path in runs.glob(f"*/{name}")]
