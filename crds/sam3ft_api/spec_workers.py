"""Where a run lives and how it goes on after failures: the fields of the resource that change no number."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from sam3ft_api import limits
from sam3ft_api.fields import (
    LABEL_KEY,
    DnsLabel,
    DurationText,
    ExactWhole,
    Flag,
    ImageName,
    LabelKey,
    LabelValue,
    OptionalDnsName,
    Quantity,
    SlurmName,
)
from sam3ft_api.section import VALIDATIONS, Rule, SpecSection, without_nulls

_LABEL_KEYS = {
    VALIDATIONS: [
        {
            "rule": f"self.all(key, key.matches(r'{LABEL_KEY}'))",
            "message": "a key of nodeSelector is a Kubernetes label such as kubernetes.io/arch",
        }
    ]
}


LabelMap = Annotated[
    dict[LabelKey, LabelValue],
    BeforeValidator(without_nulls),
    Field(max_length=limits.MAX_NODE_SELECTOR, json_schema_extra=_LABEL_KEYS),
]
"""Label keys to values."""


class ResourcesSpec(SpecSection):
    """What one worker needs besides its accelerators; requests and limits are the same."""

    cpu: Annotated[Quantity | None, Field(description="Cores, as 8 or 500m. Default: the profile's.")] = None
    memory: Annotated[Quantity | None, Field(description="Main memory, as 64Gi. Default: the profile's.")] = None
    ephemeral_storage: Annotated[
        Quantity | None, Field(description="Scratch and cache on the node's disk, as 100Gi. Default: the profile's.")
    ] = None
    shared_memory: Annotated[
        Quantity | None, Field(description="In-memory volume for worker processes, as 8Gi. Default: the profile's.")
    ] = None


class TolerationSpec(SpecSection):
    """One taint that the workers accept, as in Kubernetes."""

    RULES: ClassVar = (
        Rule(
            cel="has(self.key) || self.operator == 'Exists'",
            holds=lambda taint: taint.key is not None or taint.operator == "Exists",
            message="a toleration without a key needs operator: Exists",
        ),
        Rule(
            cel="!has(self.value) || self.value == '' || self.operator == 'Equal'",
            holds=lambda taint: not taint.value or taint.operator == "Equal",
            message="a toleration with operator: Exists has no value",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda taint: taint.toleration_seconds is None or taint.effect == "NoExecute",
            message="tolerationSeconds needs effect: NoExecute",
        ),
    )

    key: Annotated[LabelKey | None, Field(description="Key of the taint; absent with Exists, it matches all.")] = None
    operator: Annotated[Literal["Equal", "Exists"], Field(description="How value is compared.")] = "Equal"
    value: Annotated[LabelValue | None, Field(description="Value of the taint, with Equal.")] = None
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(description="Effect of the taint; absent, it matches all."),
    ] = None
    toleration_seconds: Annotated[
        ExactWhole | None,
        Field(ge=0, le=limits.MAX_SECONDS, description="Seconds a worker stays after a NoExecute taint."),
    ] = None


class WorkersSpec(SpecSection):
    """How many workers run, and what each of them gets."""

    RULES: ClassVar = (
        Rule(
            cel="self.minNodes <= self.nodes && (!has(self.maxNodes) || self.nodes <= self.maxNodes)",
            holds=lambda workers: workers.min_nodes <= workers.nodes <= (workers.max_nodes or workers.nodes),
            message="minNodes <= nodes <= maxNodes does not hold",
        ),
    )

    nodes: Annotated[
        ExactWhole,
        Field(ge=1, le=limits.MAX_NODES, description="Nodes wanted now; `kubectl scale` changes it while running."),
    ] = 1
    min_nodes: Annotated[
        ExactWhole, Field(ge=1, le=limits.MAX_NODES, description="Nodes below which the run waits.")
    ] = 1
    max_nodes: Annotated[
        ExactWhole | None,
        Field(ge=1, le=limits.MAX_NODES, description="Nodes that the run can be scaled to. Default: nodes."),
    ] = None
    gpus_per_node: Annotated[
        ExactWhole,
        Field(
            ge=0,
            le=limits.MAX_GPUS_PER_NODE,
            description="Accelerators and worker processes on each node; 0 trains on the CPU with one process.",
        ),
    ] = 1
    profile: Annotated[
        DnsLabel,
        Field(
            description="Worker profile of the administrator: GPU resource name, network and proxy settings, cache "
            "volume, image."
        ),
    ] = "default"
    resources: Annotated[ResourcesSpec, Field(description="What one worker needs besides its accelerators.")] = (
        ResourcesSpec()
    )
    node_selector: LabelMap = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: Annotated[
        tuple[TolerationSpec, ...],
        Field(max_length=limits.MAX_TOLERATIONS, description="Taints that the workers accept."),
    ] = ()
    priority_class_name: Annotated[
        OptionalDnsName, Field(description="PriorityClass of the workers; empty for the cluster's default.")
    ] = ""
    image: Annotated[ImageName, Field(description="Trainer image; empty takes the profile's.")] = ""
    termination_grace_period_seconds: Annotated[
        ExactWhole,
        Field(
            ge=limits.MIN_GRACE_S,
            le=3600,
            description="Seconds between the request to stop and the kill; a checkpoint is committed within it.",
        ),
    ] = 120
    start_deadline_seconds: Annotated[
        ExactWhole,
        Field(
            ge=1,
            le=86_400,
            description="Seconds that the start waits for all nodes before it goes on with minNodes or more.",
        ),
    ] = 600
    warm_spares: Annotated[
        Flag,
        Field(description="Keep one more process per worker with the libraries loaded: back seconds sooner, 0.5 GiB."),
    ] = False


class StorageSpec(SpecSection):
    """Credentials and endpoints, by name; values never stand in the resource."""

    secret_ref: Annotated[
        OptionalDnsName,
        Field(
            description="Secret in this namespace (keys AWS_* and the like) for model, checkpoint and export; empty "
            "for the identity of the pod or machine."
        ),
    ] = ""
    profile: Annotated[DnsLabel, Field(description="Storage profile (endpoint) that the administrator allows.")] = (
        "default"
    )
    data_secret_ref: Annotated[
        OptionalDnsName, Field(description="Secret for reading the data; empty takes secretRef.")
    ] = ""
    data_profile: Annotated[DnsLabel, Field(description="Storage profile for the data.")] = "default"


class QueueSpec(SpecSection):
    """Admission by Kueue."""

    local_queue: Annotated[DnsLabel, Field(description="LocalQueue in this namespace.")]


class SlurmSpec(SpecSection):
    """Where SLURM runs the job, with `backend: slurm`."""

    site: Annotated[DnsLabel, Field(description="Name under which the site's agent is enrolled.")]
    partition: Annotated[SlurmName | None, Field(description="Partition. Default: the site's.")] = None
    time_limit: Annotated[
        DurationText | None,
        Field(description="Wall-clock limit of one submission, as 90m or 12h; longer runs are submitted again."),
    ] = None
    account: Annotated[SlurmName | None, Field(description="Account that is charged. Default: the user's.")] = None


class FailurePolicySpec(SpecSection):
    """How many ends are forgiven. Interruptions do not count, but attempts without a newer commit do."""

    max_restarts: Annotated[
        ExactWhole, Field(ge=0, le=limits.MAX_RESTARTS, description="Counted restarts within windowSeconds.")
    ] = 10
    window_seconds: Annotated[
        ExactWhole, Field(ge=1, le=limits.MAX_SECONDS, description="Seconds over which restarts are counted.")
    ] = 3600
    max_without_progress: Annotated[
        ExactWhole,
        Field(
            ge=1,
            le=limits.MAX_RESTARTS,
            description="Attempts or re-formed groups in a row without a newer commit, whatever the cause.",
        ),
    ] = 5
