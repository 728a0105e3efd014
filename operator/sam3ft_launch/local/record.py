"""What the supervisor writes down about a run, for every other process that wants to look."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sam3ft_api.files import write_atomically
from sam3ft_launch.folder.documents import read_document
from sam3ft_launch.folder.ends import PastEnd
from sam3ft_launch.local.process import ProcessIdentity, is_alive


class Phase(StrEnum):
    """Where the supervisor stands."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    ENDED = "ended"


class RunRecord(BaseModel):
    """Content of `run.json`, replaced atomically at every change of phase.

    Attributes:
        version: of this file's form.
        name: of the run.
        uid: identity of the run folder; it owns the checkpoint prefix.
        attempt: counts submissions in this folder from 1.
        phase: see `Phase`.
        supervisor: the process that drives the run.
        launcher: the present launcher, None between two.
        processes: worker processes.
        host: machine on which it runs.
        started_unix_s: start of the attempt.
        ended_unix_s: its end.
        restarts: starts of the launcher beyond the first.
        exit_code: of the attempt, once it has ended.
        reason: CamelCase word for the exit code.
        message: why it ended, for people.
        ends: the newest ten ends of the launcher.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str
    uid: str
    attempt: int
    phase: Phase
    supervisor: ProcessIdentity
    launcher: ProcessIdentity | None = None
    processes: int
    host: str
    started_unix_s: float
    ended_unix_s: float | None = None
    restarts: int = 0
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    ends: tuple[PastEnd, ...] = ()

    @property
    def is_live(self) -> bool:
        """True while the supervisor that wrote this record drives the run."""
        return self.phase != Phase.ENDED and is_alive(self.supervisor)


def read_record(path: Path) -> RunRecord | None:
    """Return the record, None when there is none.

    Raises:
        StorageDenied: the file exists and cannot be read, or is not a record of this version.
    """
    return read_document(path, RunRecord)


def write_record(path: Path, record: RunRecord) -> None:
    """Replace the record atomically."""
    write_atomically(path, record.model_dump_json(indent=2) + "\n")
