"""What is written down about a run on SLURM, in its folder: by the login node one file, by the job another.

Each file has one writer and is replaced atomically, so that neither side ever waits for the other.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sam3ft_api.files import write_atomically
from sam3ft_launch.folder.documents import read_document
from sam3ft_launch.folder.ends import PastEnd


class NodeJob(BaseModel):
    """The job of one node beyond the first.

    Attributes:
        slot: place of the node in the group, from 1.
        generation: how many jobs this place has had before.
        job_name: under which it is known to SLURM, written before it is submitted.
        job_id: its number; empty while it is not known whether it was accepted.
        submitted_unix_s: when it was begun, or tried last.
        over_unix_s: when it was first seen to be over; None while it is not.
        refused: SLURM's words where it would not take the job; empty otherwise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slot: int
    generation: int = 0
    job_name: str
    job_id: str = ""
    submitted_unix_s: float
    over_unix_s: float | None = None
    refused: str = ""


class SlurmRecord(BaseModel):
    """Content of `slurm.json`, written where `sam3ft run` is called.

    Attributes:
        version: of this file's form.
        name: of the run.
        uid: identity of the run folder; it owns the checkpoint prefix.
        attempt: counts submissions in this folder from 1.
        job_name: under which the attempt's job is known to SLURM, written before it is submitted.
        job_id: its number; empty while it is not known whether it was accepted.
        nodes: nodes asked for.
        processes: worker processes of each node.
        submitted_unix_s: when the attempt was begun.
        refused: SLURM's words where it would not take the job; empty otherwise.
        places: nodes of the run that are jobs of their own, the first with them; 1 where one job has all.
        node_jobs: of the nodes beyond the first, where each is a job of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str
    uid: str
    attempt: int
    job_name: str
    job_id: str = ""
    nodes: int
    processes: int
    submitted_unix_s: float
    refused: str = ""
    places: int = 1
    node_jobs: tuple[NodeJob, ...] = ()


class JobReport(BaseModel):
    """Content of `work/slurm-job.json`, written by the job; with `code` it is the word that counts.

    An empty one is put there before the job is submitted, so that a network file system knows the name.

    Attributes:
        version: of this file's form.
        attempt: of which it tells.
        job_id: of the job that writes; empty before its first word.
        host: node on which the script runs.
        starts: how often launchers were started.
        ends: how they ended, the newest hundred, oldest first.
        code: of the attempt, once it is over for good; None before that, a requeued job's too.
        reason: CamelCase word for the code.
        message: why it ended, for people.
        ended_unix_s: when.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    attempt: int
    job_id: str = ""
    host: str = ""
    starts: int = 0
    ends: tuple[PastEnd, ...] = ()
    code: int | None = None
    reason: str = ""
    message: str = ""
    ended_unix_s: float | None = None


def read_record(path: Path) -> SlurmRecord | None:
    """Return the login node's record, None when there is none.

    Raises:
        StorageDenied: the file exists and cannot be read, or is not a record of this version.
    """
    return read_document(path, SlurmRecord)


def read_report(path: Path, *, attempt: int) -> JobReport | None:
    """Return the job's report of an attempt, None when there is none.

    Raises:
        StorageDenied: the file exists and cannot be read, or is not a report of this version.
    """
    report = read_document(path, JobReport)
    return report if report is not None and report.attempt == attempt else None


def write(path: Path, content: SlurmRecord | JobReport) -> None:
    """Replace a record or report atomically."""
    write_atomically(path, content.model_dump_json(indent=2) + "\n")
