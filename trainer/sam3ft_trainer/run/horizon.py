"""How many steps a run has, when it evaluates, and when a time budget starts the cool-down; pure."""

import math
from dataclasses import dataclass

from sam3ft_api.training import ScratchConfig
from sam3ft_trainer.data.order import total_steps


def planned_steps(scratch: ScratchConfig, num_images: int) -> int:
    """Return the last step by `max_steps`, else by epochs; a time budget may end the run earlier."""
    return scratch.max_steps or total_steps(num_images, scratch.train_batch_size, scratch.max_data_epochs)


def is_evaluation_due(*, step: int, steps_per_epoch: int, every_epochs: float | None, total_steps: int) -> bool:
    """Say whether the state after `step` is scored: at every multiple of the interval, and at the end."""
    if step >= total_steps:
        return True
    if every_epochs is None or step == 0:
        return False
    interval = every_epochs * steps_per_epoch
    return math.floor(step / interval + 1e-9) > math.floor((step - 1) / interval + 1e-9)


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """Turns a wall-clock budget into a last step.

    The decision is made once and committed, so that a run that is resumed later ends at the same step. Time is
    counted while ranks train: the time between attempts does not count.

    Attributes:
        budget_s: wall-clock seconds of training; None never ends early.
        cooldown: steps that the schedule needs to come down.
    """

    budget_s: float | None
    cooldown: int

    def last_step(self, *, step: int, total_steps: int, elapsed_s: float, seconds_per_step: float) -> int | None:
        """Return the new last step if the cool-down must start now, else None.

        Args:
            step: finished steps.
            total_steps: steps planned so far.
            elapsed_s: training seconds used, over all attempts.
            seconds_per_step: recent average, evaluations and checkpoints included.
        """
        if self.budget_s is None or step + self.cooldown >= total_steps:
            return None
        needed_s = (self.cooldown + 1) * seconds_per_step
        return step + self.cooldown if elapsed_s + needed_s >= self.budget_s else None
