"""The sections of the config document that may differ between attempts of one run: they change no number."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sam3ft_api import limits
from sam3ft_api.fields import (
    Address,
    Compile,
    DnsLabel,
    Flag,
    Metric,
    Number,
    Part,
    Positive,
    ProjectName,
    Share,
    SinkName,
    Whole,
)
from sam3ft_api.section import Section, unique


class RuntimeConfig(Section):
    """How the work is laid out on the machine; but for rounding, nothing here changes what is computed at dropout 0."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is some."""
    micro_batch: Annotated[Whole, Field(ge=1, le=limits.MAX_GLOBAL_BATCH)] | None = None
    """Images per forward pass and process; None is found automatically."""
    activation_checkpointing: Literal["auto", "none"] | tuple[Part, ...] = "auto"
    """Parts recomputed in backward."""
    compile: Compile = "auto"
    """Compile the model's layers on CUDA: steps are faster, the first ones wait a minute or two for the compiler. auto
    does it where the machine has what that needs, a C compiler among it."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """CPU threads per process; None shares the cores. Recorded in the commit."""
    decode_threads: Annotated[Whole, Field(ge=1, le=256)] | None = None
    """Threads that read and decode images, per process; None shares the cores."""
    prefetch_bytes: Annotated[Whole, Field(ge=1 << 20, le=1 << 40)] = 256 << 20
    """Bytes of decoded batches kept ready, per process."""
    log_every: Annotated[Whole, Field(ge=1, le=limits.MAX_STEP)] = 10
    """Steps between log lines."""
    trace_samples: Flag = False
    """Write the image ids of every step and rank to `samples-rank-R.jsonl`."""
    cache_bytes: Annotated[Whole, Field(ge=1 << 20, le=1 << 50)] | None = None
    """Bytes of images kept on the node, where it has a cache folder; None takes half of what is free at the start."""
    outage_s: Positive = 900.0
    """Seconds for which a store may not answer before the run ends with 22; it can then be resumed."""
    watchdog_s: Positive = 1800.0
    """Seconds without a finished step after which stacks are saved and the run ends with 24."""
    tensorboard: Flag = True
    """Write TensorBoard events."""


class TrackingConfig(Section):
    """Where curves go besides the run's own files; addresses and credentials stand in no document (docs/sinks.md)."""

    sinks: Annotated[tuple[SinkName, ...], Field(max_length=3), AfterValidator(unique)] = ()
    """Libraries that get every value TensorBoard gets; an outage of theirs costs curves, never the run."""
    project: ProjectName = "sam3ft"
    """Project of Weights & Biases, experiment of MLflow."""


class CheckpointConfig(Section):
    """Where and when the state is committed."""

    uri: Address | None = None
    """Prefix that belongs to this run alone; None is checkpoint/ in the work folder."""
    every_steps: Annotated[Whole, Field(ge=1, le=limits.MAX_STEP)] | None = 200
    """Optimizer steps between commits; None goes by time alone."""
    every_seconds: Positive | None = 600.0
    """Seconds between commits, whichever comes first; None goes by steps alone."""
    keep_last: Annotated[Whole, Field(ge=1, le=limits.MAX_KEPT)] = 3
    """Newest commits kept."""
    keep_best: Annotated[Whole, Field(ge=0, le=limits.MAX_KEPT)] = 1
    """Best commits kept besides."""
    resume: Literal["auto", "never", "must"] = "auto"
    """auto: from the newest commit if there is one; never: refuse a used prefix; must: need one."""
    adopt: Flag = False
    """Take over a prefix that another run owns, or that was written with other settings."""
    allow_unfenced: Flag = False
    """Accept a store that cannot create objects conditionally."""


class StorageConfig(Section):
    """Which storage profiles are used; endpoints and credentials stand in no document."""

    profile: DnsLabel = "default"
    """Storage profile of checkpoint and export."""
    data_profile: DnsLabel = "default"
    """Storage profile of data and model."""


class EvaluationConfig(Section):
    """What is scored, when, and what selects."""

    every_epochs: Annotated[Number, Field(gt=0, le=limits.MAX_EPOCHS)] | None = 1
    """Epochs between evaluations on the selection split; None scores at the end only."""
    metric: Metric = "bbox_AP"
    """Value that selects the best checkpoint."""
    patience: Annotated[Whole, Field(ge=1, le=10_000)] | None = None
    """Evaluations without a better value before the run stops early; None never does."""
    min_delta: Share = 0.0
    """Smallest change of the metric that counts as better."""
    baseline: Flag = True
    """Score the untouched model first."""
    max_dets: Annotated[Whole, Field(ge=1, le=10_000)] = 100
    """Detections kept per image, over all categories."""
    score_threshold: Share = 0.5
    """Score from which a detection counts for cgF1 and pictures."""
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 1
    """Images per forward pass of the evaluation."""


class ExportConfig(Section):
    """The model that is handed back."""

    uri: Address | None = None
    """Folder or bucket address to write; None exports nothing. `sam3ft run` puts it into the run folder."""
    formats: Annotated[tuple[Literal["transformers"], ...], Field(min_length=1, max_length=4)] = ("transformers",)
    """transformers: a folder for Sam3Model.from_pretrained."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the exported weights."""


class IdentityConfig(Section):
    """Who runs: recorded in the first claim of the checkpoint log."""

    name: DnsLabel = "run"
    """Name of the resource or run."""
    uid: Annotated[str, Field(min_length=1, max_length=128)] = "local"
    """What tells two runs of one name apart."""
