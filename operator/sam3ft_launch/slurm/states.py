"""What SLURM's words mean for a run; pure.

One table, with the words as `squeue` and `sacct` print them in their long form. A word that is not in it is neither an
end nor a failure: versions of SLURM differ, and a run is not given up for a word.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands, as far as a run is concerned."""

    QUEUED = "Queued"
    HELD = "Held"
    REQUEUED = "Requeued"
    STARTING = "Starting"
    RUNNING = "Running"
    ENDING = "Ending"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    TIME_LIMIT = "TimeLimit"
    PREEMPTED = "Preempted"
    NODE_FAILURE = "NodeFailure"
    OUT_OF_MEMORY = "OutOfMemory"
    DEADLINE = "Deadline"
    UNKNOWN = "Unknown"

    @property
    def is_over(self) -> bool:
        """The job has ended, as far as this word goes; a scheduler that requeues it says another one soon."""
        return self in _OVER


_OVER = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.TIME_LIMIT,
        JobState.PREEMPTED,
        JobState.NODE_FAILURE,
        JobState.OUT_OF_MEMORY,
        JobState.DEADLINE,
    }
)
_WORDS: Mapping[str, JobState] = {
    "PENDING": JobState.QUEUED,
    "CONFIGURING": JobState.STARTING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.ENDING,
    "COMPLETING": JobState.ENDING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    "REQUEUED": JobState.REQUEUED,
    "REQUEUE_FED": JobState.REQUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "BOOT_FAIL": JobState.NODE_FAILURE,
    "NODE_FAIL": JobState.NODE_FAILURE,
    "LAUNCH_FAILED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIME_LIMIT,
    "PREEMPTED": JobState.PREEMPTED,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "DEADLINE": JobState.DEADLINE,
    "REVOKED": JobState.UNKNOWN,
}
_HELD = re.compile(r"held|JobHoldMaxRequeue", re.IGNORECASE)
_IMPOSSIBLE: Mapping[str, str] = {
    "PartitionNodeLimit": "the partition does not let one job have so many nodes; lower workers.nodes",
    "PartitionConfig": "more nodes, time, cores, memory or GPUs than the partition has; lower workers.nodes, "
    "slurm.timeLimit, workers.resources or workers.gpusPerNode, or name another slurm.partition",
    "PartitionTimeLimit": "longer than the partition allows; lower slurm.timeLimit or name another slurm.partition",
    "BadConstraints": "no node has what is asked for; look at workers.gpusPerNode and the options of the site",
    "ReqNodeNotAvail": "nodes that are asked for are not available; look at them with sinfo",
    "AssocGrpNodeLimit": "more nodes than the account may have; lower workers.nodes",
    "AccountNotAllowed": "the account may not use the partition; name another slurm.account or slurm.partition",
    "AccountingPolicy": "the account's limits do not allow it; ask whoever looks after the account",
    "InvalidAccount": "there is no such account; correct slurm.account",
    "InvalidQOS": "the account may not use that quality of service; correct the options of the site",
    "QOSNotAllowed": "the partition does not allow the quality of service; correct the options of the site",
    "PartitionDown": "the partition takes no jobs; name another slurm.partition",
    "PartitionInactive": "the partition is inactive; name another slurm.partition",
}
_QUOTA = re.compile(r"^(QOS|Assoc|Licenses)")


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as the scheduler shows it.

    Attributes:
        job_id: its number, as text.
        name: its name.
        word: its state in SLURM's own word, upper case.
        reason: SLURM's word for why it is there; empty for none.
        restarts: how often it was requeued.
        nodes: names of its nodes as SLURM writes them; empty before it has some.
    """

    job_id: str
    name: str
    word: str
    reason: str
    restarts: int
    nodes: str

    @property
    def state(self) -> JobState:
        """What the word means, with the reason taken into account."""
        state = _WORDS.get(self.word, JobState.UNKNOWN)
        if state is JobState.QUEUED and _HELD.search(self.reason):
            return JobState.HELD
        if state is JobState.QUEUED and self.restarts:
            return JobState.REQUEUED
        return state

    @property
    def is_impossible(self) -> bool:
        """It waits for what will not come by itself."""
        return self.word == "PENDING" and self._first_reason in _IMPOSSIBLE

    @property
    def _first_reason(self) -> str:
        # Some carry a list behind a comma: ReqNodeNotAvail,_UnavailableNodes:n[1-2].
        return self.reason.partition(",")[0]

    @property
    def remedy(self) -> str:
        """What mends an impossible request; empty for others."""
        return _IMPOSSIBLE.get(self._first_reason, "")


def sentence(job: JobView) -> str:
    """Return what a person is told about a job that does not run."""
    why = job.reason or "no reason yet"
    job_here = f"job {job.job_id}"
    if job.is_impossible:
        return f"{job_here} cannot start ({job.reason}): {job.remedy}"
    if job.state is JobState.HELD:
        return f"{job_here} is held ({why}); `scontrol release {job.job_id}` lets it go"
    if job.state is JobState.REQUEUED:
        return f"{job_here} is in the queue again ({why}); SLURM lets it wait about two minutes"
    if job.state is JobState.RUNNING:
        return f"{job_here} runs on {job.nodes}; its workers are starting"
    if job.state is not JobState.QUEUED:
        return f"{job_here} is {job.word}" + (f" ({job.reason})" if job.reason else "")
    for_what = "nodes"
    if job.reason == "Dependency":
        for_what = "another job of its name to end"
    elif _QUOTA.match(job.reason):
        for_what = "a share of what the account may use"
    return f"{job_here} waits for {for_what} ({why})"
