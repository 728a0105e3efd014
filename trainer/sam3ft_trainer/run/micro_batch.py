"""How many images go through one forward pass; pure."""

import math


def images_per_rank(*, batch_size: int, world_size: int) -> int:
    """Return the largest number of images any rank takes from one global batch."""
    return math.ceil(batch_size / world_size)


def choose_micro_batch(
    *,
    wanted: int | None,
    committed: int | None,
    fits: int,
    upper_bound: int | None,
    batch_size: int,
    world_size: int,
) -> int:
    """Return the images per forward pass of each process, at least 1.

    A committed value goes before what fits today, because on the CPU another split gives other rounding; the bound
    that the launcher sets after an out-of-memory end goes before everything.

    Args:
        wanted: the user's setting, None for automatic.
        committed: value of the commit that is resumed, None on a fresh start.
        fits: what the memory plan allows, at least 1.
        upper_bound: the launcher's bound, None without one.
        batch_size: images of the global batch.
        world_size: processes.
    """
    share = images_per_rank(batch_size=batch_size, world_size=world_size)
    choice = wanted or committed or fits
    if upper_bound is not None:
        choice = min(choice, upper_bound)
    return max(1, min(choice, share))
