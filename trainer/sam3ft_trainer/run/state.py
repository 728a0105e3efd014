"""Everything about a run that is neither tensor nor setting: one small document inside every commit."""

from typing import Self

from pydantic import BaseModel, ConfigDict

from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.run.selection import Selection

SKIP_WINDOW = 1000
"""Steps over which skipped updates are counted against the budget."""


class LoopState(BaseModel):
    """Where a run stands at a step boundary.

    The cursor moves with every step, also when its update was skipped. All randomness is a hash of seed, step and
    image, so no generator has a state to keep.

    Attributes:
        step: finished optimizer steps, skipped ones included.
        cursor: images of all epochs that finished steps used; the position in the data order.
        total_steps: last step of the run; lowered once when a time budget starts the cool-down.
        horizon_fixed: the time budget has made its decision.
        evaluated_step: last step whose state has been scored, -1 before any; 0 is the untouched model.
        selection: best value and patience.
        stopped_early: the patience ran out at this step.
        skipped_steps: steps whose update was skipped within the last `SKIP_WINDOW` steps, ascending.
        skipped_total: all skipped updates since the start.
        elapsed_s: seconds of training over all attempts.
        micro_batch: images per forward pass and process.
        threads: CPU threads per process.
        world_size: processes of the round that wrote this.
        save_s: how long the save before this one took, from its copy to its commit, s; None before the first.
        loss_scale: scale of the fp16 gradient scaler, None otherwise.
        metrics: newest evaluation on the selection split.
        baseline: scores of the untouched model, by split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = 0
    cursor: int = 0
    total_steps: int
    horizon_fixed: bool = False
    evaluated_step: int = -1
    selection: Selection
    stopped_early: bool = False
    skipped_steps: tuple[int, ...] = ()
    skipped_total: int = 0
    elapsed_s: float = 0.0
    micro_batch: int
    threads: int
    world_size: int
    save_s: float | None = None
    loss_scale: float | None = None
    metrics: dict[str, float] = {}
    baseline: dict[str, SplitScores] = {}

    def with_skip(self, step: int) -> Self:
        """Return the state after noticing that the update of `step` was skipped."""
        recent = tuple(other for other in self.skipped_steps if other > step - SKIP_WINDOW)
        return self.model_copy(update={"skipped_steps": (*recent, step), "skipped_total": self.skipped_total + 1})

    def skips_within_window(self) -> int:
        """Return how many of the last `SKIP_WINDOW` steps were skipped."""
        return sum(1 for step in self.skipped_steps if step > self.step - SKIP_WINDOW)

    @property
    def is_finished(self) -> bool:
        """No step is left, or the patience has run out."""
        return self.stopped_early or self.step >= self.total_steps
