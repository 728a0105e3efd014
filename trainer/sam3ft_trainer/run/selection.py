"""Which evaluation is the best, and when to stop early; pure."""

import math
from typing import Self

from pydantic import BaseModel, ConfigDict


class Selection(BaseModel):
    """What is known about the selection metric so far; part of every commit.

    Attributes:
        metric: name of the metric, larger is better.
        best_value: best finite value seen, None before the first.
        best_step: optimizer step of that value.
        since_best: evaluations since then that were not better.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    best_value: float | None = None
    best_step: int | None = None
    since_best: int = 0

    def observe(self, value: float | None, *, step: int, min_delta: float) -> tuple[Self, bool]:
        """Take one evaluation in and say whether it is the new best.

        An undefined value (None or not finite, such as AP without any ground truth) is never the best and counts
        as an evaluation without improvement.
        """
        defined = value is not None and math.isfinite(value)
        better = defined and (self.best_value is None or value > self.best_value + min_delta)  # type: ignore[operator]
        if better:
            return self.model_copy(update={"best_value": value, "best_step": step, "since_best": 0}), True
        return self.model_copy(update={"since_best": self.since_best + 1}), False

    def is_exhausted(self, patience: int | None) -> bool:
        """Say whether `patience` evaluations in a row brought nothing; never without a patience."""
        return patience is not None and self.since_best >= patience
