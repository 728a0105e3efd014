"""What a finished step adds to progress, log and curves; only at the log interval, and a step late."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sam3ft_trainer.data.figures import merged, sentence
from sam3ft_trainer.run.bad_images import bad_document, keep_bad_image
from sam3ft_trainer.run.meter import split_terms
from sam3ft_trainer.run.step import StepNumbers, StepResult

if TYPE_CHECKING:
    from sam3ft_trainer.run.session import Session


RECENT_STEPS = 50
LEAST_STEPS = 5
"""Fewer steps say nothing: the first ones warm up caches."""


class Pace:
    """Images per second and seconds per step, from the recent steps of this attempt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock."""
        self._clock = clock
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS)
        self._last_s = clock()
        self._images = 0

    def count_step(self, images: int) -> None:
        """A step of `images` images over all ranks has ended."""
        self._ends.append(self._clock())
        self._images += images

    @property
    def seconds_per_step(self) -> float:
        """Average over the last `RECENT_STEPS` steps, with the evaluations and saves between them; 0 before a few.

        The time before the first step (imports, the score of the untouched model) says nothing about steps.
        """
        if len(self._ends) < LEAST_STEPS:
            return 0.0
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)

    def interval(self) -> float | None:
        """Return images per second since the last call; None when no time has passed."""
        now = self._clock()
        images, seconds = self._images, now - self._last_s
        self._last_s, self._images = now, 0
        return images / seconds if seconds > 0 else None


def foresee(
    step: int, *, total_steps: int, seconds_per_step: float, budget_left_s: float | None
) -> tuple[int, float | None]:
    """Return the last step to expect and the seconds until then; a time budget may end the run before its last step.

    Nobody knows the seconds before a few steps have been timed: None.

    Args:
        step: finished steps.
        total_steps: planned.
        seconds_per_step: recent average, 0 before a few.
        budget_left_s: of the time budget, None without one.
    """
    if seconds_per_step <= 0:
        return total_steps, None
    eta_s = (total_steps - step) * seconds_per_step
    if budget_left_s is None or eta_s <= budget_left_s:
        return total_steps, eta_s
    return step + int(max(0.0, budget_left_s) / seconds_per_step), max(0.0, budget_left_s)


def report_step(run: "Session", result: StepResult, numbers: StepNumbers) -> None:
    """Keep progress fresh each step, and write a log line at the interval.

    At the interval all ranks take part, because the terms of the loss are summed over them.
    """
    state, every = run.state, run.config.runtime.log_every
    run.pace.count_step(result.num_images)
    done = result.step + 1
    total_steps, eta_s = foresee(
        done,
        total_steps=state.total_steps,
        seconds_per_step=run.pace.seconds_per_step,
        budget_left_s=None if state.horizon_fixed else run.budget_left_s(),
    )
    changes: dict[str, Any] = {
        "state": "training",
        "message": run.tally.reading,
        "step": done,
        "total_steps": total_steps,
        "epoch": done / run.steps_per_epoch,
        "eta_s": eta_s,
        "loss": numbers.loss,
        "learning_rate": result.learning_rate,
        "skipped_steps": state.skipped_total,
        "world_size": run.group.world_size,
        "last_step_unix_s": time.time(),
    }
    if done % every and done != state.total_steps:
        run.reporter.progress(**changes, figures=run.meter.newest())
    else:
        _report_interval(run, result, numbers, changes)


def _report_interval(run: "Session", result: StepResult, numbers: StepNumbers, changes: dict[str, Any]) -> None:
    """Gather what the ranks have counted, and put it into progress (with the step's `changes`), log and curves."""
    done = result.step + 1
    spans = run.spans.take()
    mine = {
        "terms": numbers.terms,
        "tally": run.tally.take(),
        "reading": run.foundation.access.figures.take(),
        "meter": run.meter.share(spans, rank=run.group.rank),
    }
    gathered = run.group.gather(mine) or []
    terms = _sum_terms([share["terms"] for share in gathered])
    tallies = [share["tally"] for share in gathered]
    _tell_quarantined(run, tallies)
    reading = merged(share["reading"] for share in gathered)
    run.tally.reading = sentence(reading)
    images_per_s = run.pace.interval()
    losses, scores = split_terms(terms, type(run.config.loss.weights).model_fields)
    figures = run.meter.figures(
        [share["meter"] for share in gathered],
        grad_norm=numbers.grad_norm,
        losses=losses,
        scores=scores,
    )
    run.reporter.progress(**changes | {"message": run.tally.reading, "images_per_s": images_per_s, "figures": figures})
    run.reporter.event(
        "train_interval",
        step=done,
        epoch=round(done / run.steps_per_epoch, 4),
        loss=numbers.loss,
        grad_norm=numbers.grad_norm,
        lr=result.learning_rate,
        images_per_s=images_per_s,
        eta_s=changes["eta_s"],
        terms=terms,
        dropped_small=sum(tally["dropped_small"] for tally in tallies),
        dropped_crowded=sum(tally["dropped_crowded"] for tally in tallies),
        spans={name: round(seconds, 4) for name, seconds in spans.items()},
        **({"reading": reading | {"cache": run.foundation.access.describe_cache()}} if reading else {}),
    )
    run.reporter.scalars(
        done,
        {"train/loss": numbers.loss, "train/grad_norm": numbers.grad_norm, "train/lr": result.learning_rate}
        | {f"terms/{name}": value for name, value in terms.items()},
    )


def _tell_quarantined(run: "Session", tallies: list[dict[str, Any]]) -> None:
    """One event and one document for each image that could not be read, their number in the progress; rank 0."""
    for tally in tallies:
        for image_id, reason, sha256 in tally["quarantined"]:
            run.bad_images[image_id] = reason
            run.reporter.event("image_quarantined", image_id=image_id, reason=reason)
            document = bad_document(run.foundation.datasets["train"], image_id, error=reason, sha256=sha256)
            keep_bad_image(run.store, run.reporter, document)
    if run.bad_images:
        run.reporter.progress(bad_images=len(run.bad_images))


def _sum_terms(gathered: list[dict[str, float]]) -> dict[str, float]:
    """Add the ranks' shares; a rank without any pair reports fewer names."""
    terms: dict[str, float] = {}
    for share in gathered:
        for name, value in share.items():
            terms[name] = terms.get(name, 0.0) + value
    return terms
