"""What a launcher and its workers say to each other: environment variables and three small JSON files.

A worker never opens a connection to anything but its peers and the stores; the launcher reads its files.
All files are replaced atomically (written beside, then renamed), so a reader never sees half of one.
"""

import math
from enum import StrEnum
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sam3ft_api import limits
from sam3ft_api.fields import SinkName

ENV_CONFIG = "SAM3FT_CONFIG"
"""Path of the config document (JSON of `TrainingConfig`)."""
ENV_WORK_DIR = "SAM3FT_WORK_DIR"
"""Folder on this node for logs, progress and scratch state of this run; exists and is private to the run."""
ENV_FLAG_FILE = "SAM3FT_FLAG_FILE"
"""Path of the flag file (JSON of `Flag`); absent while there is no request."""
ENV_RESULT_FILE = "SAM3FT_RESULT_FILE"
"""Path where this worker writes its `WorkerResult` as its last act."""
ENV_TRAINING_FILE = "SAM3FT_TRAINING_FILE"
"""Path of an empty file that this worker makes once it has finished a step: its start no longer needs the cores, which
the launcher's spares may then have."""
ENV_MICRO_BATCH_MAX = "SAM3FT_MICRO_BATCH_MAX"
"""Upper bound of images per forward pass, lowered by the launcher after a device ran out of memory."""
ENV_ATTEMPT = "SAM3FT_ATTEMPT"
"""Number of this attempt, 1 for the first."""
ENV_TOKEN = "SAM3FT_TOKEN"  # noqa: S105 - the name of the variable, not a secret
"""Secret of this attempt; known to launchers and coordinator, removed from the environment of workers."""
ENV_RUN_KEY = "SAM3FT_RUN_KEY"
"""Key of the run as hex digits, instead of `ENV_TOKEN`: launchers and coordinator derive the attempt's token from it
(`sam3ft_api.tokens`). Removed from the environment of workers as well."""
ENV_STORAGE_PROFILES = "SAM3FT_STORAGE_PROFILES"
"""Path of the file of storage profiles (YAML of `sam3ft_api.storage.StorageProfiles`); without it the user's own."""
ENV_CREDENTIALS_DIR = "SAM3FT_CREDENTIALS_DIR"
"""Folder with one file per key of the run's Secret (AWS_ACCESS_KEY_ID, ...); read again when credentials are renewed.
Without it the same names are read from the environment."""
ENV_DATA_CREDENTIALS_DIR = "SAM3FT_DATA_CREDENTIALS_DIR"
"""The same for reading data and weights; without it `SAM3FT_DATA_AWS_...` variables, else those of the run."""
DATA_CREDENTIALS_PREFIX = "SAM3FT_DATA_"
"""Prefix of the variables that hold the credentials for reading data, before AWS_, GOOGLE_ or AZURE_."""
ENV_EVICTION_GRACE_S = "SAM3FT_EVICTION_GRACE_S"
"""Seconds from a request to stop until the workers are killed; absent when nobody can say."""
ENV_SIGNALS_REACH_WORKERS = "SAM3FT_SIGNALS_REACH_WORKERS"
"""Set to 1 where whoever signals a launcher signals all processes below it, as SLURM does with a step: workers then
ignore the signals that ask the launcher to stop, and the launcher ends them with SIGKILL."""
ENV_CACHE_DIR = "SAM3FT_CACHE_DIR"
"""Folder on this node that outlives a worker, shared by the workers of the node: images, data indexes, and a copy of
the newest commit. Without it nothing is cached."""

PROGRESS_FILE = "progress.json"
"""Name, inside the work folder, of the file in which rank 0 keeps its `Progress`."""

STEP_BOUNDS_S = (
    *(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5),
    *(2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper bounds of the intervals by which steps are counted, s; neighbours are at most a factor of 2.5 apart."""


def _keep_start(value: Any) -> Any:
    return value[: limits.MAX_MESSAGE_CHARS] if isinstance(value, str) else value


def _keep_end(value: Any) -> Any:
    return value[-limits.MAX_TRACEBACK_CHARS :] if isinstance(value, str) else value


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _only_finite(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    finite = {name: number for name, number in value.items() if _finite_or_none(number) is not None}
    return dict(list(finite.items())[: limits.MAX_METRICS])


Sentence = Annotated[str, BeforeValidator(_keep_start), Field(max_length=limits.MAX_MESSAGE_CHARS)]
"""A paragraph for people; a longer one loses its end rather than the whole report."""
Traceback = Annotated[str, BeforeValidator(_keep_end), Field(max_length=limits.MAX_TRACEBACK_CHARS)]
"""The end of a traceback."""
Measure = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number; NaN and infinity, which JSON does not have, become None."""
Metrics = Annotated[dict[str, float], BeforeValidator(_only_finite), Field(max_length=limits.MAX_METRICS)]
"""Metrics by name; one that is undefined (NaN) is left out, and so is what exceeds `limits.MAX_METRICS`."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Report(_Message):
    """What is only told and never obeyed.

    What a later version adds is left out, keys, sinks and intervals: after a rollback an older coordinator hears from
    newer workers, and a figure it does not know must not cost the run its connection.
    """

    model_config = ConfigDict(extra="ignore")


class FlagKind(StrEnum):
    """What the launcher asks of its workers."""

    EVICT = "evict"
    REGROUP = "regroup"


class Flag(_Message):
    """A request to save at the next step boundary and end.

    Attributes:
        kind: EVICT ends with code 20, REGROUP with code 26.
        deadline_unix_s: wall clock after which the launcher kills; None when there is no hurry.
    """

    kind: FlagKind
    deadline_unix_s: float | None = None


class WorkerResult(_Message):
    """Last word of one worker; the launcher prefers it to the bare exit status.

    Attributes:
        code: exit code as in `sam3ft_api.exit_codes`.
        rank: global rank of the worker.
        message: one paragraph for the user, without secrets; cut at 2,048 characters.
        traceback: for internal errors only, the end of the traceback.
        step: last finished optimizer step.
        checkpoint_step: step of the newest commit known to this worker.
        micro_batch: images per forward pass when it ended; the launcher halves it after a device ran out of memory.
        metrics: last evaluation, by name.
    """

    code: int
    rank: int
    message: Sentence = ""
    traceback: Traceback = ""
    step: int = 0
    checkpoint_step: int | None = None
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    metrics: Metrics = {}


def step_or_none(value: int | None) -> int | None:
    """Return an optimizer step that a status may hold; None for what is no step."""
    return value if value is not None and 0 <= value <= limits.MAX_STEP else None


_SINKS = frozenset(get_args(SinkName))


def _known_sinks(value: Any) -> Any:
    return {name: told for name, told in value.items() if name in _SINKS} if isinstance(value, dict) else value


def _in_our_intervals(value: Any) -> Any:
    """Leave out step times whose intervals are another version's: they cannot be told apart from ours."""
    counts = value.get("counts") if isinstance(value, dict) else None
    is_others = isinstance(counts, list | tuple) and len(counts) != len(STEP_BOUNDS_S) + 1
    return None if is_others else value


class StepTimes(_Report):
    """How long the steps of rank 0's process took, evaluations and saves between them left out; a histogram.

    Attributes:
        counts: finished steps in each interval that ends with a bound of `STEP_BOUNDS_S`, and at last of longer ones.
        total_s: of all of them together.
    """

    counts: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(min_length=len(STEP_BOUNDS_S) + 1, max_length=len(STEP_BOUNDS_S) + 1),
    ]
    total_s: Annotated[float, Field(ge=0)]


class RankFigures(_Report):
    """What one rank did with its time over the last log interval, in seconds a step, and its memory.

    Attributes:
        rank: global rank.
        data_s: waited for its images.
        peers_s: waited for the slowest rank before the step; a rank for which others wait has little of it.
        forward_s: forward passes and losses, in which no rank waits for another. With CUDA, the host's share, in
            which kernels are queued.
        device_bytes: most memory that tensors held on its device during the interval; None on the CPU.
        resident_bytes: memory of its process on the host.
        gpu_use: share of the time in which its device had work, 0..1; this and the next three by NVML, None without.
        gpu_used_bytes: most memory of the device in use, by all its processes.
        gpu_power_w: watts that the device drew, on average.
        gpu_celsius: its highest temperature.
    """

    rank: Annotated[int, Field(ge=0, lt=limits.MAX_RANKS_SHOWN)]
    data_s: Measure = None
    peers_s: Measure = None
    forward_s: Measure = None
    device_bytes: int | None = None
    resident_bytes: int | None = None
    gpu_use: Measure = None
    gpu_used_bytes: int | None = None
    gpu_power_w: Measure = None
    gpu_celsius: Measure = None


class SinkFigures(_Report):
    """What became of the values for one sink of curves, since this process began.

    Attributes:
        sent: values that its library has taken.
        lost: values that it never gets: not taken, or not in time.
    """

    sent: Annotated[int, Field(ge=0)] = 0
    lost: Annotated[int, Field(ge=0)] = 0


class StepFigures(_Report):
    """What is worth a curve beyond `Progress`; counts and sums begin anew with each process of rank 0.

    Attributes:
        grad_norm: global L2 norm before clipping, of the last step of the newest interval.
        losses: terms of that step's loss at the last layer, before their weights, by name; all ranks together.
        scores: how right the model was on that step's images, by name, 0..1.
        steps: how long steps took.
        data_wait_s: seconds in which training waited for images, each interval's by the rank that waited longest. With
            CUDA the host waits, and the device may still be at work on what was asked of it before.
        flops_share: FLOPs of the steps, none counted twice, over what all devices could have done meanwhile at their
            peak; None where that is not known.
        save_s: from the copy of the state to the newest commit that this process has made.
        save_bytes: of that commit.
        ranks: the first `limits.MAX_RANKS_SHOWN`.
        sinks: of curves, by name; empty for a run without any.
    """

    grad_norm: Measure = None
    losses: Metrics = {}
    scores: Metrics = {}
    steps: Annotated[StepTimes | None, BeforeValidator(_in_our_intervals)] = None
    data_wait_s: Measure = None
    flops_share: Measure = None
    save_s: Measure = None
    save_bytes: int | None = None
    ranks: Annotated[tuple[RankFigures, ...], Field(max_length=limits.MAX_RANKS_SHOWN)] = ()
    sinks: Annotated[dict[SinkName, SinkFigures], BeforeValidator(_known_sinks)] = {}

    @model_validator(mode="after")
    def _a_rank_appears_once(self) -> Self:
        if len({figures.rank for figures in self.ranks}) != len(self.ranks):
            raise ValueError("a rank has its figures once")
        return self


class Progress(_Report):
    """How far the run is; written by rank 0 at most once a second and at every change of state.

    Attributes:
        state: checking | loading | training | evaluating | checkpointing | exporting | finished | failed
        step: finished optimizer steps.
        total_steps: steps planned; may shrink when a time budget ends the run.
        epoch: epochs finished, with fraction.
        eta_s: estimated seconds to the end of the run, None until it can be known.
        images_per_s: over the last interval, all ranks together.
        loss: last finite total loss.
        learning_rate: of the transformer group.
        metrics: newest evaluation on the selection split, by name (`bbox_AP` and so on, 0..1).
        best: best value of the selection metric so far, with its step.
        checkpoint_step: step of the newest commit.
        world_size: ranks of the present round.
        skipped_steps: updates skipped for a non-finite loss or gradient.
        bad_images: quarantined images.
        last_step_unix_s: wall clock of the last finished step.
        message: one line for people.
        figures: more numbers of the steps, for curves; None before the first.
    """

    state: Annotated[str, Field(min_length=1, max_length=64)]
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    eta_s: Measure = None
    images_per_s: Measure = None
    loss: Measure = None
    learning_rate: Measure = None
    metrics: Metrics = {}
    best_metric: Annotated[str, Field(max_length=limits.MAX_METRIC_NAME_CHARS)] | None = None
    best_value: Measure = None
    best_step: int | None = None
    checkpoint_step: int | None = None
    world_size: int = 1
    skipped_steps: int = 0
    bad_images: int = 0
    last_step_unix_s: float | None = None
    message: Sentence = ""
    figures: StepFigures | None = None
