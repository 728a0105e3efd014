"""The learning rate of a step: inverse square root with warm-up and cool-down, upstream's schedule.

Source: facebookresearch/sam3 `train/optim/schedulers.py`, InverseSquareRootParamScheduler. Upstream derives its step
from a float that is truncated, which repeats some steps, and divides by zero when the run is as long as the warm-up;
here the true step is used.
"""

import math


def learning_rate(peak_lr: float, step: int, total_steps: int, *, warmup: int, timescale: int, cooldown: int) -> float:
    """Return the learning rate of one optimizer step.

    The rate rises linearly to `peak_lr` over `warmup` steps, then falls as 1 / sqrt, and is brought to zero linearly
    over the last `cooldown` steps. The first step of a run with a warm-up has rate 0, as upstream. Where warm-up and
    cool-down overlap both factors apply.

    Args:
        peak_lr: the group's rate at the end of the warm-up.
        step: 0 for the first update.
        total_steps: updates of the whole run.
        warmup: steps; 0 starts at `peak_lr`.
        timescale: steps after the warm-up in which the rate falls to peak / sqrt(2); at least 1.
        cooldown: steps; 0 ends without one.

    Returns:
        The rate, never negative.
    """
    rate = peak_lr
    if step > warmup:
        rate /= math.sqrt((step + timescale - warmup) / timescale)
    if warmup:
        rate *= min(1.0, step / warmup)
    if cooldown:
        rate *= min(1.0, max(0.0, (total_steps - step) / cooldown))
    return rate
