"""A run with every decision made, before any backend has given it a form.

    SAM3FineTuneSpec -plan-> JobPlan -backend.render-> Submission

A plan is a value: equal plans render to equal submissions, and its JSON can be printed, kept and compared. It holds no
secret; credentials are named (`StorageAccess`), and their values reach the workers by the backend's own way.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sam3ft_api import limits
from sam3ft_api.fields import BackendName, DnsLabel, Quantity
from sam3ft_api.training import TrainingConfig


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Toleration(_Part):
    """One taint that workers accept, as in Kubernetes; empty words match all."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class Placement(_Part):
    """Where Kubernetes may put the workers, and with what.

    Attributes:
        profile: worker profile of the administrator (GPU resource name, NCCL environment, cache volume, image).
        image: trainer image; empty takes the profile's.
        resources: cpu, memory, ephemeral-storage of one worker, as Kubernetes quantities.
        shared_memory: size of the in-memory volume for worker processes; None takes the profile's.
        node_selector: labels that a node must have.
        tolerations: taints that are accepted.
        priority_class_name: empty for the cluster's default.
        excluded_nodes: names of nodes that have failed this run before.
        local_queue: Kueue's queue; empty without Kueue.
    """

    profile: DnsLabel = "default"
    image: str = ""
    resources: dict[str, Quantity] = {}
    shared_memory: Quantity | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    priority_class_name: str = ""
    excluded_nodes: tuple[str, ...] = ()
    local_queue: str = ""


class StorageAccess(_Part):
    """Which credentials and endpoints the run uses, by name alone.

    Attributes:
        secret: Secret with read and write access for model, checkpoint and export; empty for ambient credentials.
        profile: storage profile (endpoint) of the administrator for them.
        data_secret: Secret with read access for the data; empty falls back to `secret`.
        data_profile: storage profile for the data.
    """

    secret: str = ""
    profile: str = "default"
    data_secret: str = ""
    data_profile: str = "default"


class SlurmPlacement(_Part):
    """Where SLURM runs the job.

    Attributes:
        site: name under which the site's agent is enrolled.
        partition: empty for the site's default.
        account: empty for the user's default.
        time_limit_s: wall-clock limit of one submission, s; None for the partition's.
    """

    site: str
    partition: str = ""
    account: str = ""
    time_limit_s: int | None = None


class RestartBudget(_Part):
    """How many ends are forgiven.

    Attributes:
        max_restarts: counted restarts (see `exit_codes`) within `window_s`.
        window_s: seconds over which they are counted.
        max_without_progress: attempts or re-formed groups in a row without a newer commit, whatever the cause.
    """

    max_restarts: Annotated[int, Field(ge=0)] = 10
    window_s: Annotated[int, Field(ge=1)] = 3600
    max_without_progress: Annotated[int, Field(ge=1)] = 5


class JobPlan(_Part):
    """Everything that a backend needs to start one attempt of a run.

    Attributes:
        name: of the resource.
        namespace: of the resource; `local` on this machine.
        uid: identity of the run; with `attempt` it makes a submission idempotent.
        attempt: 1 for the first.
        backend: which backend the plan was made for.
        config: the config document that every worker reads.
        source: text of the user's file, kept beside the run for people; empty when there was none.
        nodes: nodes asked for.
        min_nodes: nodes below which the run waits.
        max_nodes: nodes that the run can grow to; `config.scratch.train_batch_size` feeds as many processes.
        processes_per_node: worker processes on each node.
        gpus_per_node: accelerators on each node; 0 trains on the CPU.
        grace_s: seconds between the request to stop and the kill; a checkpoint is saved within it.
        start_deadline_s: seconds the first round waits for all `nodes` before it starts with `min_nodes`.
        deadline_s: seconds from the first start after which the run is ended; None without one.
        warm_spares: keep processes with the libraries loaded, for a faster restart.
        budget: how many ends are forgiven.
        env: variables that every worker gets besides those of `sam3ft_api.worker`; never a secret.
        placement: for Kubernetes.
        storage: credentials and endpoints, by name.
        slurm: for SLURM; None on other backends.
    """

    name: DnsLabel
    namespace: DnsLabel = "local"
    uid: Annotated[str, Field(min_length=1, max_length=128)]
    attempt: Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPT)] = 1
    backend: BackendName
    config: TrainingConfig
    source: str = ""
    nodes: Annotated[int, Field(ge=1, le=limits.MAX_NODES)] = 1
    min_nodes: Annotated[int, Field(ge=1, le=limits.MAX_NODES)] = 1
    max_nodes: Annotated[int, Field(ge=1, le=limits.MAX_NODES)] = 1
    processes_per_node: Annotated[int, Field(ge=1, le=limits.MAX_GPUS_PER_NODE)] = 1
    gpus_per_node: Annotated[int, Field(ge=0, le=limits.MAX_GPUS_PER_NODE)] = 0
    grace_s: Annotated[float, Field(gt=0)] = 120.0
    start_deadline_s: Annotated[float, Field(gt=0)] = 600.0
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    warm_spares: bool = False
    budget: RestartBudget = RestartBudget()
    env: dict[str, str] = {}
    placement: Placement = Placement()
    storage: StorageAccess = StorageAccess()
    slurm: SlurmPlacement | None = None

    @model_validator(mode="after")
    def _the_group_can_form(self) -> Self:
        if not self.min_nodes <= self.nodes <= self.max_nodes:
            raise ValueError(f"nodes {self.nodes} is not within {self.min_nodes} to {self.max_nodes}")
        processes = self.max_nodes * self.processes_per_node
        if processes > self.config.scratch.train_batch_size:
            raise ValueError(
                f"{processes} processes cannot share a global batch of {self.config.scratch.train_batch_size} images; "
                "raise the batch or ask for fewer processes"
            )
        return self

    @property
    def world_size(self) -> int:
        """Worker processes when all `nodes` take part."""
        return self.nodes * self.processes_per_node
