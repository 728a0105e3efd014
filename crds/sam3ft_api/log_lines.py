"""The lines of a run's log: one JSON object each, on rank 0's standard output and in `events.jsonl`.

Programs may rely on what stands here; other fields may come and go. docs/log-lines.schema.json is generated from it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sam3ft_api import limits

EVENTS: dict[str, str] = {
    "data_from_store": "data are read from an object store; `address`, `cache`",
    "model_fetched": "the model was copied to this node; `address`, `folder`",
    "memory_planned": "images a forward pass, and what is recomputed; `micro_batch`, `checkpointed`, bytes",
    "model_loaded": "weights are loaded and frozen as asked; `origin`, `load`, `freeze`",
    "text_cached": "phrases were encoded once, and the encoder's memory given back; `phrases`",
    "layers": "whether layers are compiled, and why not; `compiled`, `message`",
    "gpu_not_watched": "use, power and temperature of rank 0's device cannot be read; `message`",
    "started": "the first attempt begins; `total_steps`, `micro_batch`, `threads`, `world_size`",
    "resumed": "another attempt goes on; `step`, `seq`, `message`",
    "grace_short": "less time to stop than saves have taken; `grace_s`, `save_s`",
    "train_interval": "the log interval has passed; its fields are below",
    "sink_failed": "curves did not reach a sink (docs/sinks.md); `sink`, `message`, `failures`, `lost`",
    "sinks_closed": "what the sinks got of this process's curves; `sinks` with `sent` and `lost` by name",
    "step_skipped": "an update was left out, because a number was not finite; `step`, `loss`, `grad_norm`, `bundle`",
    "image_quarantined": "an image could not be read; `image_id`, `reason`",
    "bad_image_not_kept": "its account could not be kept in the store; `message`",
    "evaluation": "a split was scored; `split`, `step`, `metrics`, `per_class`, `seconds`, `is_best`",
    "stopped_early": "no better value for long enough; `step`, `evaluations`",
    "cool_down": "the time budget has fixed the last step; `step`, `total_steps`",
    "checkpoint_committed": "a commit is durable; `step`, `seq`, `bytes`, `seconds`",
    "checkpoint_skipped": "a rank was still busy with the save before; `step`",
    "checkpoint_aborted": "a peer was silent during a save; `step`, `message`",
    "checkpoint_failed": "a save has failed; `step`, `message`",
    "save_skipped": "a save was not begun, because the one before was under way; `step`",
    "checkpoints_retired": "old commits were deleted",
    "orphans_swept": "files that belong to no commit were deleted",
    "cleanup_failed": "old commits could not be deleted; nothing is lost; `message`",
    "copy_written": "this node keeps a copy of the newest commit",
    "copy_skipped": "it keeps none, and why",
    "copy_used": "a restore read that copy",
    "copy_damaged": "that copy was not what it should be; the store's was read",
    "events_not_kept": "these lines, or the report, could not be kept beside the checkpoints; `message`",
    "stopped": "asked to stop, and saved; `step`, `kind`",
    "stopped_unsaved": "asked to stop without the time for a save; `step`, `checkpoint_step`, `steps_lost`",
    "chosen": "which weights are handed over, and why; `step`, `why`",
    "best_unusable": "the best commit could not be read again; `step`",
    "export_found": "the export was there already; `address`",
    "exported": "a model was handed over; `address`, `bytes`, `largest_difference`, `warnings`",
    "finished": "the run is complete",
    "already_complete": "started again, and there was nothing left to do; `step`",
}
"""Every event by its name, with what it means and its main fields."""


class LogLine(BaseModel):
    """What every line has.

    Attributes:
        ts: when, in seconds since the epoch.
        event: what has happened; a name of `EVENTS`.
        run: name of the run.
        attempt: number of the attempt.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    ts: Annotated[float, Field(ge=0, description="When, in seconds since the epoch.")]
    event: Annotated[str, Field(pattern="^[a-z][a-z_]*$", description="What has happened.")]
    run: Annotated[str, Field(min_length=1, max_length=limits.MAX_NAME_CHARS, description="Name of the run.")]
    attempt: Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPT, description="Number of the attempt.")]


class TrainInterval(LogLine):
    """The one line of each log interval (`runtime.log_every` steps), and of the last step."""

    event: Literal["train_interval"] = "train_interval"
    step: Annotated[int, Field(ge=1, description="Finished optimizer steps.")]
    epoch: Annotated[float, Field(ge=0, description="Finished epochs, with fraction.")]
    loss: Annotated[float | None, Field(description="Of the last step; null when it was not finite.")]
    grad_norm: Annotated[float | None, Field(description="L2 norm of the gradient before clipping, last step.")]
    lr: Annotated[float, Field(ge=0, description="Learning rate of the transformer.")]
    images_per_s: Annotated[float | None, Field(description="Over the interval, all processes together.")]
    eta_s: Annotated[float | None, Field(description="Estimated seconds to the end of the run.")]
    terms: Annotated[dict[str, float | None], Field(description="Terms of the loss before their weights, last step.")]
    dropped_small: Annotated[int, Field(ge=0, description="Objects left out as too small, in the interval.")]
    dropped_crowded: Annotated[int, Field(ge=0, description="Objects left out of crowded images, in the interval.")]
    spans: Annotated[dict[str, float], Field(description="Seconds of the interval by what rank 0 did.")]


def schema() -> dict[str, Any]:
    """Return the JSON schema of a line: of an interval by its own rules, of every other event by those of all."""
    interval, any_line = TrainInterval.model_json_schema(), LogLine.model_json_schema()
    any_line["properties"]["event"] |= {"enum": [name for name in EVENTS if name != "train_interval"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of a run's log",
        "oneOf": [interval, any_line],
    }
