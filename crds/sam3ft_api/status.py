"""The status of a resource: the only place where a status field exists. Readers pass over fields they do not know."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.alias_generators import to_camel

from sam3ft_api import limits
from sam3ft_api.worker import Progress, step_or_none


def _kubernetes_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Moment = Annotated[AwareDatetime, PlainSerializer(_kubernetes_time, return_type=str, when_used="always")]
"""A time with its zone; written in UTC to the second, as Kubernetes does."""


def moment(seconds: float) -> datetime:
    """Return a time of the status, which is kept to the second."""
    return datetime.fromtimestamp(int(seconds), UTC)


Text = Annotated[str, Field(max_length=limits.MAX_STATUS_TEXT)]
Word = Annotated[str, Field(max_length=limits.MAX_METRIC_NAME_CHARS)]
Uri = Annotated[str, Field(max_length=2048)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Seconds = Annotated[float, Field(ge=0)]
Reason = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]


class Phase(StrEnum):
    """Where a run stands, in one word for people; programs read the conditions."""

    PENDING = "Pending"
    CHECKING = "Checking"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    CHECKPOINTING = "Checkpointing"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def is_final(self) -> bool:
        """True when only `retry` can make the run go on."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class ConditionType(StrEnum):
    """What a condition is about. Ready and Stalled are read by kstatus and Argo CD."""

    ACCEPTED = "Accepted"
    DATASET_READY = "DatasetReady"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    DEGRADED = "Degraded"
    COMPLETE = "Complete"
    FAILED = "Failed"
    BACKEND_REACHABLE = "BackendReachable"
    READY = "Ready"
    STALLED = "Stalled"


class _Status(BaseModel):
    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )


class Condition(_Status):
    """One observation, in the form of metav1.Condition."""

    type: Annotated[ConditionType, Field(description="What is observed.")]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="Whether it holds.")]
    reason: Annotated[Reason, Field(description="CamelCase word for programs.")]
    message: Annotated[Text, Field(description="One sentence for people.")] = ""
    last_transition_time: Annotated[Moment, Field(description="When status last changed.")]
    observed_generation: Annotated[Count, Field(description="metadata.generation that was looked at.")] = 0


class ProgressStatus(_Status):
    """How far the run is."""

    step: Annotated[Count, Field(description="Finished optimizer steps.")] = 0
    total_steps: Annotated[Count, Field(description="Planned optimizer steps.")] = 0
    epoch: Annotated[float, Field(ge=0, description="Epochs finished, with fraction.")] = 0.0
    ratio: Annotated[float, Field(ge=0, le=1, description="step / totalSteps.")] = 0.0
    eta_seconds: Annotated[Seconds | None, Field(description="Estimated seconds to the end.")] = None
    images_per_second: Annotated[float | None, Field(ge=0, description="Images per second, all workers.")] = None
    loss: Annotated[float | None, Field(description="Last finite total loss.")] = None
    last_step_time: Annotated[Moment | None, Field(description="When the last step finished.")] = None


class CheckpointStatus(_Status):
    """The newest commit."""

    step: Annotated[Count, Field(description="Step of the commit.")]
    uri: Annotated[Uri, Field(description="Where it lies.")]
    digest: Annotated[Word, Field(description="SHA-256 of its manifest.")] = ""
    time: Annotated[Moment, Field(description="When it was committed.")]


class BestStatus(_Status):
    """The best evaluation so far."""

    metric: Annotated[Word, Field(description="Name of the selecting metric.")]
    value: Annotated[float, Field(description="Its best value, 0 to 1.")]
    step: Annotated[Count, Field(description="Step of that evaluation.")]
    uri: Annotated[Uri, Field(description="Where its weights lie.")] = ""


class DatasetStatus(_Status):
    """What the check of the data set found."""

    images: Annotated[Count, Field(description="Images over all splits.")] = 0
    annotations: Annotated[Count, Field(description="Annotations over all splits.")] = 0
    categories: Annotated[Count, Field(description="Categories.")] = 0
    problems: Annotated[Count, Field(description="Images and annotations left out or mended.")] = 0
    digest: Annotated[Word, Field(description="SHA-256 over annotations and image names.")] = ""


class WorkersStatus(_Status):
    """How many workers there are."""

    desired: Annotated[Count, Field(description="Nodes wanted now.")] = 0
    ready: Annotated[Count, Field(description="Nodes that take part now.")] = 0
    world: Annotated[Count, Field(description="Processes that take part now.")] = 0


class FirstFailure(_Status):
    """What failed first in an attempt."""

    rank: Annotated[Count | None, Field(description="Global rank; absent when no rank failed.")] = None
    node: Annotated[Word, Field(description="Node on which it happened.")] = ""
    message: Annotated[Text, Field(description="What it said, with the end of its log.")] = ""


class AttemptStatus(_Status):
    """One attempt that has begun."""

    n: Annotated[Count, Field(description="Number of the attempt, 1 for the first.")]
    reason: Annotated[Word, Field(description="How it ended, as in the table of exit codes; empty while it runs.")] = ""
    exit_code: Annotated[int | None, Field(ge=0, le=255, description="Exit code of the run.")] = None
    started: Annotated[Moment | None, Field(description="When it was submitted.")] = None
    finished: Annotated[Moment | None, Field(description="When it ended.")] = None
    first_failure: Annotated[FirstFailure | None, Field(description="What failed first.")] = None
    lost_steps: Annotated[Count | None, Field(description="Steps done after the newest commit, to be redone.")] = None
    recovery_seconds: Annotated[Seconds | None, Field(description="Seconds from its end to the next step.")] = None
    ends: Annotated[Count, Field(description="Times that pods of it ended; those within a minute are one.")] = 0
    counted: Annotated[Count, Field(description="Those of them that count against failurePolicy.maxRestarts.")] = 0


class CountedEnds(_Status):
    """Counted ends that lie close together."""

    time: Annotated[Moment, Field(description="When the last of them was.")]
    count: Annotated[Count, Field(description="How many they are.")]


class BudgetStatus(_Status):
    """What has been used of failurePolicy since the last raise of retry."""

    counted: Annotated[
        tuple[CountedEnds, ...],
        Field(max_length=limits.MAX_BUCKETS, description="Counted ends, oldest first; close ones share an entry."),
    ] = ()
    commit_step: Annotated[Count | None, Field(description="Newest commit that ended a row without progress.")] = None
    without_progress: Annotated[Count, Field(description="Ends in a row without a newer commit.")] = 0


class GoodputStatus(_Status):
    """Share of the time since the start that went into steps which were kept."""

    ratio: Annotated[float, Field(ge=0, le=1, description="Kept training time over kept and lost time.")] = 0.0
    good_seconds: Annotated[Seconds, Field(description="Seconds of training that were kept.")] = 0.0
    since: Annotated[Moment | None, Field(description="Up to when the time is accounted for.")] = None
    lost_seconds: Annotated[
        dict[Word, Seconds],
        Field(max_length=limits.MAX_CAUSES, description="Seconds lost, by cause."),
    ] = Field(default_factory=dict)


class ExportStatus(_Status):
    """The exported model."""

    uri: Annotated[Uri, Field(description="Folder of the exported model.")]


class SummaryStatus(_Status):
    """Ready-made strings for the columns of `kubectl get`, one value each."""

    step: Annotated[Word, Field(description="Step and total, as 1200/4000.")] = ""
    eta: Annotated[Word, Field(description="Time to the end, as 1h20m.")] = ""
    loss: Annotated[Word, Field(description="Last loss.")] = ""
    ap: Annotated[Word, Field(description="Best value of the selecting metric.")] = ""
    nodes: Annotated[Word, Field(description="Ready and wanted nodes, as 4/8.")] = ""
    message: Annotated[Text, Field(description="What the run does or waits for, in one sentence.")] = ""


class SlurmStatus(_Status):
    """Written by the site's agent alone; the operator derives everything else from it."""

    site: Annotated[Word, Field(description="Site that took the job.")] = ""
    attempt: Annotated[Count, Field(description="Attempt that this describes.")] = 0
    intent: Annotated[Word, Field(description="Job name recorded before the submission.")] = ""
    job_id: Annotated[Word, Field(description="SLURM's job number.")] = ""
    folder: Annotated[Uri, Field(description="Run folder on the site.")] = ""
    state: Annotated[Word, Field(description="SLURM's own word; empty before the job is known.")] = ""
    reason: Annotated[Word, Field(description="SLURM's own reason.")] = ""
    checking: Annotated[bool, Field(description="The data set is checked on the site before the submission.")] = False
    answers: Annotated[bool, Field(description="The scheduler answered when the agent last asked.")] = True
    exit_code: Annotated[int | None, Field(ge=0, le=255, description="Exit code of the attempt, once it is over.")] = (
        None
    )
    ending: Annotated[Word, Field(description="CamelCase word for the exit code.")] = ""
    node: Annotated[Word, Field(description="Nodes of the job as SLURM writes them, or where the run ended.")] = ""
    nodes: Annotated[Count, Field(description="Nodes that run.")] = 0
    restarts: Annotated[Count, Field(description="Times the job has started its workers again.")] = 0
    message: Annotated[Text, Field(description="One sentence for people, or the end of the log.")] = ""
    missing: Annotated[Text, Field(description="Why nodes of an elastic run are missing for longer than a while.")] = ""
    progress: Annotated[ProgressStatus | None, Field(description="How far the attempt is.")] = None
    commit_step: Annotated[Count | None, Field(description="Step of the newest commit.")] = None
    best: Annotated[BestStatus | None, Field(description="The best evaluation so far.")] = None
    dataset: Annotated[DatasetStatus | None, Field(description="What the check of the data set found.")] = None
    time: Annotated[Moment | None, Field(description="When the agent last wrote this.")] = None


class SAM3FineTuneStatus(_Status):
    """What the operator has observed; absent fields are not known yet."""

    phase: Annotated[Phase | None, Field(description="Where the run stands, in one word for people.")] = None
    observed_generation: Annotated[Count, Field(description="metadata.generation that was acted on.")] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=limits.MAX_CONDITIONS,
            description="What holds, for programs.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    summary: Annotated[SummaryStatus | None, Field(description="Strings for the columns of kubectl get.")] = None
    progress: Annotated[ProgressStatus | None, Field(description="How far the run is.")] = None
    checkpoint: Annotated[CheckpointStatus | None, Field(description="The newest commit.")] = None
    best: Annotated[BestStatus | None, Field(description="The best evaluation so far.")] = None
    dataset: Annotated[DatasetStatus | None, Field(description="What the check of the data set found.")] = None
    workers: Annotated[WorkersStatus | None, Field(description="How many workers there are.")] = None
    started: Annotated[Moment | None, Field(description="When the first attempt was opened.")] = None
    restarts: Annotated[Count, Field(description="Counted restarts since the last raise of retry.")] = 0
    attempts: Annotated[
        tuple[AttemptStatus, ...],
        Field(max_length=limits.MAX_ATTEMPTS_KEPT, description="The newest attempts, oldest first."),
    ] = ()
    budget: Annotated[BudgetStatus | None, Field(description="What has been used of failurePolicy.")] = None
    retried: Annotated[Count, Field(description="Value of spec.retry that was acted on.")] = 0
    goodput: Annotated[GoodputStatus | None, Field(description="How much of the time was not lost.")] = None
    export: Annotated[ExportStatus | None, Field(description="The exported model.")] = None
    slurm: Annotated[SlurmStatus | None, Field(description="Written by the site's agent alone.")] = None
    replicas: Annotated[Count, Field(description="Nodes that exist, for the scale subresource.")] = 0
    selector: Annotated[Text, Field(description="Label selector of the workers, for the scale subresource.")] = ""


def readable_status(content: object) -> SAM3FineTuneStatus:
    """Return a status as a newer or a careless writer left it: what cannot be read of it is left out."""
    fields = dict(content) if isinstance(content, Mapping) else {}
    while True:
        try:
            return SAM3FineTuneStatus.model_validate(fields)
        except ValidationError as error:
            broken = {str(detail["loc"][0]) for detail in error.errors(include_url=False) if detail["loc"]}
            kept = {name: value for name, value in fields.items() if name not in broken}
            if len(kept) == len(fields):
                return SAM3FineTuneStatus()
            fields = kept


def progress_status(told: Progress, *, last_step_time: datetime | None) -> ProgressStatus:
    """Return how far a run is from what its trainer says, held to what a status may hold.

    Args:
        told: by rank 0.
        last_step_time: when the last step finished, as far as that is believed.
    """
    step, total = step_or_none(told.step) or 0, step_or_none(told.total_steps) or 0
    return ProgressStatus(
        step=step,
        total_steps=total,
        epoch=told.epoch if math.isfinite(told.epoch) and told.epoch > 0 else 0.0,
        ratio=min(1.0, step / total) if total else 0.0,
        eta_seconds=max(0.0, told.eta_s) if told.eta_s is not None else None,
        images_per_second=max(0.0, told.images_per_s) if told.images_per_s is not None else None,
        loss=told.loss,
        last_step_time=last_step_time,
    )
