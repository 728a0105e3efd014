"""What `decide` answers: actions that may be repeated, the status to write, events to tell, and when to look again.

The status is written first, with the resourceVersion that was read, and actions follow: an attempt is opened in the
status before its Job is made, and what an attempt left is in the status before its Job is deleted. A process that dies
between the two repeats the actions, because they follow from status and children again.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sam3ft_api.status import SAM3FineTuneStatus


class Part(StrEnum):
    """A group of children that are made together; each is made only when it does not exist."""

    PREFLIGHT = "preflight"
    """ConfigMap with the config document, NetworkPolicy of the preflight, and its Job."""
    GROUP = "group"
    """Secret with the key of the tokens, Service, NetworkPolicies, and the coordinator's pod of one attempt."""
    WORKERS = "workers"
    """Job of the workers of one attempt."""


@dataclass(frozen=True, slots=True)
class Ensure:
    """Make what is missing of a part.

    Attributes:
        part: what.
        attempt: number of the attempt; 1 for the preflight.
        nodes: pods of the workers.
        excluded_nodes: names of nodes that the workers must not use.
    """

    part: Part
    attempt: int = 1
    nodes: int = 1
    excluded_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resize:
    """Set parallelism and completions of a Job together."""

    job: str
    nodes: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Set `suspend` of a Job: its pods are asked to save and end, or are made again."""

    job: str
    suspend: bool


@dataclass(frozen=True, slots=True)
class Admit:
    """Set `active` of the Workload that Kueue keeps for a Job: false gives its quota back and ends its pods.

    Attributes:
        job: name of the Job.
        uid: of the Job, by which its Workload is found.
        is_active: whether Kueue may admit it.
    """

    job: str
    uid: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one child in the background, unless another object has taken its name since.

    Attributes:
        kind: of the object.
        name: of the object.
        uid: of the object that was seen; empty for a kind that is not watched by uid.
        is_forced: without any grace: its node does not answer, and nobody will ever confirm its end.
    """

    kind: Literal["Job", "Pod", "Service", "ConfigMap", "NetworkPolicy", "Secret"]
    name: str
    uid: str = ""
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class FailPod:
    """Write `phase: Failed` into the status of a pod on a dead node; deleting it would not release it.

    Measured: with the job-tracking finalizer a forced deletion brings no replacement.
    """

    pod: str
    uid: str
    message: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Put the operator's finalizer on the resource, or take it off: a job outside of the cluster has to end first."""

    is_held: bool = True


Action = Hold | Ensure | Resize | Pause | Admit | Delete | FailPod


@dataclass(frozen=True, slots=True)
class Note:
    """One event to tell about the resource.

    Attributes:
        type: Normal or Warning.
        reason: CamelCase word.
        message: one sentence for people.
    """

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from one look.

    Attributes:
        status: to write when it differs from the one that was read.
        actions: in order, after the status.
        notes: told after the status, each once.
        requeue_s: look again after so many seconds even if nothing changes; None when only a change matters.
    """

    status: SAM3FineTuneStatus
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    requeue_s: float | None = None
