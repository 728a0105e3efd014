"""What the API server, and the coordinator, show of one run: slim values, everything that `decide` may look at.

Times are seconds since the epoch by the API server's clock. Whoever builds these values keeps no object of the API, so
that ten thousand runs fit into memory.
"""

from dataclasses import dataclass, field

from sam3ft_api.messages import Verdict
from sam3ft_api.spec import SAM3FineTuneSpec
from sam3ft_api.status import SAM3FineTuneStatus
from sam3ft_api.termination import Termination
from sam3ft_api.worker import Progress


@dataclass(frozen=True, slots=True)
class Resource:
    """One SAM3FineTune.

    Attributes:
        namespace: where it and its children live.
        name: of the resource.
        uid: identity; a resource of the same name made later has another.
        generation: number of the spec's version.
        created_s: when it was made.
        spec: validated; None when it cannot be, and then `refusal` says why.
        refusal: every problem of the spec with its path, for people.
        status: as last written; empty for a new resource, or where it cannot be read.
        is_deleted: a deletion has been asked for; nothing may be made any more.
        deleted_s: when it was asked for; None without a request.
        is_held: it carries the operator's finalizer.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    created_s: float
    spec: SAM3FineTuneSpec | None
    refusal: str = ""
    status: SAM3FineTuneStatus = field(default_factory=SAM3FineTuneStatus)
    is_deleted: bool = False
    deleted_s: float | None = None
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a run.

    Attributes:
        name: of the pod.
        uid: identity of the pod.
        role: preflight, coordinator or worker.
        attempt: from its label; 0 for the preflight.
        index: completion index in its Job; None for the coordinator.
        phase: Pending, Running, Succeeded, Failed or Unknown.
        node: on which it is; empty before it is scheduled.
        address: of the pod; empty until it has one.
        created_s: when it was made.
        is_ready: its Ready condition is true.
        deletion_s: when its deletion was asked for plus its grace, so when it should be gone; None without a request.
        is_disrupted: its DisruptionTarget condition is true: preempted, evicted, drained, or its node is gone.
        is_node_lost: its node has not answered for longer than the pod tolerates.
        unschedulable: the scheduler's words; empty when it has a node.
        waiting: the reason for which its container does not start, e.g. ImagePullBackOff; empty otherwise.
        waiting_message: the kubelet's words to it.
        exit_code: of its container; None while it runs.
        reason: of its container's end, or the pod's: OOMKilled, Error, Evicted, ...; empty while it runs.
        finished_s: when its container ended; None while it runs.
        termination: its last word, validated; None where it left none or wrote something else.
        restarts: of its container by the kubelet.
    """

    name: str
    uid: str
    role: str
    attempt: int = 0
    index: int | None = None
    phase: str = "Pending"
    node: str = ""
    address: str = ""
    created_s: float = 0.0
    is_ready: bool = False
    deletion_s: float | None = None
    is_disrupted: bool = False
    is_node_lost: bool = False
    unschedulable: str = ""
    waiting: str = ""
    waiting_message: str = ""
    exit_code: int | None = None
    reason: str = ""
    finished_s: float | None = None
    termination: Termination | None = None
    restarts: int = 0

    @property
    def has_ended(self) -> bool:
        """Its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class JobView:
    """One Job of a run.

    Attributes:
        name: of the Job.
        uid: identity of the Job.
        role: preflight or worker.
        attempt: from its label; 0 for the preflight.
        created_s: when it was made.
        parallelism: pods wanted.
        completions: pods that have to succeed.
        is_suspended: `spec.suspend`.
        active: pods that have not ended.
        succeeded: pods that succeeded.
        failed: pods that failed and were counted.
        is_complete: its Complete condition is true.
        failure_reason: of its Failed condition, e.g. PodFailurePolicy; empty while it has not failed.
        failure_message: of its Failed condition.
        finished_s: when it became complete or failed.
        is_deleted: a deletion has been asked for.
        trouble: why its pods are not made (quota, admission), as the newest event says, or Kueue; empty otherwise.
        queue: LocalQueue of Kueue that it waits in, its resource's or the namespace's own; empty without one.
    """

    name: str
    uid: str
    role: str
    attempt: int = 0
    created_s: float = 0.0
    parallelism: int = 1
    completions: int = 1
    is_suspended: bool = False
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    is_complete: bool = False
    failure_reason: str = ""
    failure_message: str = ""
    finished_s: float | None = None
    is_deleted: bool = False
    trouble: str = ""
    queue: str = ""

    @property
    def has_ended(self) -> bool:
        """It is complete or has failed for good."""
        return self.is_complete or bool(self.failure_reason)


@dataclass(frozen=True, slots=True)
class GroupView:
    """What the coordinator says of the run, read as untrusted input and bounded.

    Attributes:
        state: waiting, running, stopping, complete or failed.
        attempt: that the coordinator serves.
        ready_nodes: nodes that take part in the present round.
        known_nodes: nodes that have said hello and are not lost.
        rounds: number of the present round, so formations of the group in this attempt.
        commit_step: step of the newest commit; None before the first.
        progress: newest progress; None before the first.
        verdict: what ended the run; None while it goes on.
        read_s: when this was read.
    """

    state: str
    attempt: int
    ready_nodes: int = 0
    known_nodes: int = 0
    rounds: int = 0
    commit_step: int | None = None
    progress: Progress | None = None
    verdict: Verdict | None = None
    read_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AgentView:
    """The agent of a SLURM site in the run's namespace.

    Attributes:
        silent_s: seconds since its Lease was seen to change, by this process's clock.
    """

    silent_s: float


@dataclass(frozen=True, slots=True)
class Children:
    """Everything that exists of one run, as the watches show it.

    Attributes:
        jobs: preflight and workers of all attempts.
        pods: of these Jobs, and the coordinator's.
        objects: (kind, name) of the other children that exist: ConfigMap, Service, NetworkPolicy. The Secret with the
            key of the tokens is never read, so it is not among them.
        group: what the coordinator said last; None when it could not be asked.
        agent: of the run's SLURM site; None where none has ever given a sign of life, and for other runs.
    """

    jobs: tuple[JobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    objects: frozenset[tuple[str, str]] = frozenset()
    group: GroupView | None = None
    agent: AgentView | None = None

    def worker_job(self, attempt: int) -> JobView | None:
        """Return the Job of the workers of one attempt."""
        return next((job for job in self.jobs if job.role == "worker" and job.attempt == attempt), None)

    def preflight_job(self) -> JobView | None:
        """Return the Job that checks the data set."""
        return next((job for job in self.jobs if job.role == "preflight"), None)

    def of_role(self, role: str, *, attempt: int | None = None) -> tuple[PodView, ...]:
        """Return the pods of a role, of one attempt or of all."""
        return tuple(pod for pod in self.pods if pod.role == role and attempt in (None, pod.attempt))
