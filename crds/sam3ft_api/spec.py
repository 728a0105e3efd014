"""The resource `SAM3FineTune`: the one YAML that a user writes, and the only place where a spec field exists."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from sam3ft_api import limits
from sam3ft_api.fields import DnsLabel, ExactWhole, Flag, Task, Whole
from sam3ft_api.section import Rule, SpecSection, without_nulls
from sam3ft_api.spec_training import (
    CheckpointSpec,
    DataSpec,
    EvaluationSpec,
    ExportSpec,
    ModelSpec,
    TrainingSpec,
)
from sam3ft_api.spec_workers import FailurePolicySpec, QueueSpec, SlurmSpec, StorageSpec, WorkersSpec

GROUP = "sam3ft.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "SAM3FineTune"
PLURAL = "sam3finetunes"
SINGULAR = "sam3finetune"
SHORT_NAMES = ("sft",)


def max_processes(spec: Any) -> int:
    """Return the worker processes of the largest group that the spec allows."""
    return int(spec.workers.max_nodes or spec.workers.nodes) * max(1, int(spec.workers.gpus_per_node))


class SAM3FineTuneSpec(SpecSection):
    """One fine-tuning run: model, data, settings, and where it may run."""

    RULES: ClassVar = (
        Rule(
            cel="self.training.globalBatchSize >= "
            "(has(self.workers.maxNodes) ? self.workers.maxNodes : self.workers.nodes) * "
            "(self.workers.gpusPerNode > 0 ? self.workers.gpusPerNode : 1)",
            holds=lambda spec: spec.training.global_batch_size >= max_processes(spec),
            message="training.globalBatchSize is smaller than maxNodes (or nodes) times gpusPerNode; "
            "every process needs an image in each step: raise the batch or lower the nodes",
        ),
        Rule(
            cel="self.task == 'segmentation' || !self.evaluation.metric.startsWith('segm')",
            holds=lambda spec: spec.task == "segmentation" or not spec.evaluation.metric.startswith("segm"),
            message="evaluation.metric segm_* needs task: segmentation; choose bbox_AP, bbox_AP50 or cgF1",
        ),
        Rule(
            cel="self.backend != 'slurm' || has(self.slurm)",
            holds=lambda spec: spec.backend != "slurm" or spec.slurm is not None,
            message="backend: slurm needs slurm.site",
        ),
    )

    backend: Annotated[
        Literal["kubernetes", "slurm"],
        Field(
            description="Where the operator runs it. `sam3ft run` uses this machine unless --backend says otherwise."
        ),
    ] = "kubernetes"
    task: Annotated[
        Task, Field(description="detection trains boxes; segmentation trains boxes and masks, and needs masks.")
    ] = "detection"
    model: Annotated[ModelSpec, Field(description="The weights that training starts from.")]
    data: Annotated[DataSpec, Field(description="The data set, read in place.")]
    training: Annotated[TrainingSpec, Field(description="The usual knobs, and all other settings in config.")] = (
        TrainingSpec()
    )
    workers: Annotated[WorkersSpec, Field(description="How many workers run, and what each of them gets.")] = (
        WorkersSpec()
    )
    checkpoint: Annotated[CheckpointSpec, Field(description="Where and when the state is committed.")] = (
        CheckpointSpec()
    )
    evaluation: Annotated[EvaluationSpec, Field(description="What is scored, when, and what selects.")] = (
        EvaluationSpec()
    )
    export: Annotated[ExportSpec, Field(description="The model that is handed back.")] = ExportSpec()
    storage: Annotated[StorageSpec, Field(description="Credentials and endpoints, by name.")] = StorageSpec()
    queue: Annotated[QueueSpec | None, Field(description="Admission by Kueue. Default: none.")] = None
    slurm: Annotated[SlurmSpec | None, Field(description="Where SLURM runs the job; needed with backend slurm.")] = None
    suspend: Annotated[
        Flag, Field(description="true commits a checkpoint and gives the nodes back; false goes on.")
    ] = False
    failure_policy: Annotated[FailurePolicySpec, Field(description="How many ends are forgiven.")] = FailurePolicySpec()
    retry: Annotated[
        ExactWhole,
        Field(
            ge=0,
            le=limits.MAX_RETRY,
            description="Raise it by one to run a Failed resource again from its newest commit; it cannot be lowered.",
        ),
    ] = 0
    active_deadline_seconds: Annotated[
        ExactWhole | None,
        Field(
            ge=60,
            le=limits.MAX_SECONDS,
            description="Seconds from the first start after which the run is ended as Failed. Default: no deadline.",
        ),
    ] = None
    ttl_seconds_after_finished: Annotated[
        ExactWhole | None,
        Field(
            ge=0,
            le=limits.MAX_SECONDS,
            description="Seconds after the end at which pods and jobs are deleted, never the resource. Default: kept.",
        ),
    ] = None


StringMap = Annotated[dict[str, str], BeforeValidator(without_nulls)]
"""Labels or annotations."""


class Metadata(SpecSection):
    """The part of Kubernetes' ObjectMeta that is read here; the rest is known and passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: DnsLabel
    namespace: DnsLabel = "default"
    uid: Annotated[str, Field(max_length=128)] | None = None
    generation: Whole | None = None
    labels: StringMap = Field(default_factory=dict)
    annotations: StringMap = Field(default_factory=dict)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    generate_name: str | None = None
    resource_version: str | None = None
    self_link: str | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[dict[str, Any], ...] = ()
    managed_fields: tuple[dict[str, Any], ...] = ()


class SAM3FineTune(SpecSection):
    """The whole document, as `kubectl apply` and `sam3ft run` read it."""

    api_version: Literal["sam3ft.dev/v1alpha1"]
    kind: Literal["SAM3FineTune"]
    metadata: Metadata
    spec: SAM3FineTuneSpec
    status: dict[str, Any] | None = Field(
        default=None, exclude=True, description="Written by the operator; passed over when a file is read."
    )
