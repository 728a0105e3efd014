"""Which image is used when: one order per epoch, one global cursor, windows of the global batch.

The order is a sort by hash of (seed, epoch, image id). It knows nothing of processes, so the images of a step are the
same for any world size, and an image added to the data set does not reshuffle the others. The cursor counts the images
of all epochs used by finished steps; it is all that has to be saved. The last window of an epoch is short when the
global batch does not divide the number of images: nothing is dropped and nothing is drawn twice.

Pure functions: no clock, no global state, no I/O.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import xxhash

ORDER_VERSION = 1
"""Part of the data position in a commit; raised whenever the same seed would give another order."""


def epoch_order(image_ids: npt.ArrayLike, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the image ids in the order of one epoch.

    Args:
        image_ids: unique integers, in any order; the result does not depend on it.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        int64 [n], each id exactly once, sorted by hash64(seed, epoch, id) and then by id.
    """
    ids = np.sort(np.asarray(image_ids, dtype=np.int64))
    prefix = f"order{ORDER_VERSION}\x1f{seed}\x1f{epoch}\x1f".encode()
    digest = xxhash.xxh3_64_intdigest
    hashes = np.fromiter((digest(prefix + b"%d" % image_id) for image_id in ids.tolist()), np.uint64, len(ids))
    return ids[np.argsort(hashes, kind="stable")]


def steps_per_epoch(num_images: int, global_batch: int) -> int:
    """Return ceil(n / G): the number of optimizer steps of one epoch, a short last one included."""
    return ceil(num_images / global_batch)


def total_steps(num_images: int, global_batch: int, epochs: float) -> int:
    """Return the optimizer steps of `epochs` passes, at least 1; a fraction of an epoch is rounded up to a step."""
    whole = floor(epochs)
    rest = ceil(round((epochs - whole) * num_images, 6) / global_batch)
    return max(1, whole * steps_per_epoch(num_images, global_batch) + rest)


def step_of_cursor(cursor: int, num_images: int, global_batch: int) -> int:
    """Return the number of steps that lie before `cursor`.

    Raises:
        ValueError: when no step of this global batch starts at `cursor`.
    """
    epoch, offset = divmod(cursor, num_images)
    if offset % global_batch:
        raise ValueError(
            f"cursor {cursor} is {offset} images into epoch {epoch}, which is no multiple of the global batch "
            f"{global_batch}; the cursor was made with another global batch"
        )
    return epoch * steps_per_epoch(num_images, global_batch) + offset // global_batch


@dataclass(frozen=True, slots=True)
class Window:
    """The images of one optimizer step.

    Attributes:
        step: counted from 0.
        epoch: counted from 0.
        cursor: images used before this step, over all epochs.
        image_ids: of the whole global batch, in order; shorter than it at the end of an epoch.
    """

    step: int
    epoch: int
    cursor: int
    image_ids: tuple[int, ...]

    @property
    def cursor_after(self) -> int:
        """The cursor once this step is done."""
        return self.cursor + len(self.image_ids)

    def share(self, rank: int, world_size: int) -> tuple[int, ...]:
        """Return the images of one rank: every `world_size`-th, from `rank` on. May be empty."""
        return self.image_ids[rank::world_size]

    def micro_batches(self, rank: int, *, world_size: int, size: int) -> tuple[tuple[int, ...], ...]:
        """Return the share of `rank` in pieces of `size` images.

        Every rank gets the same number of pieces, so that all stay in lockstep; a rank that has run out of images
        gets empty ones.
        """
        share = self.share(rank, world_size)
        count = ceil(ceil(len(self.image_ids) / world_size) / size)
        return tuple(share[piece * size : (piece + 1) * size] for piece in range(count))


def windows(image_ids: Sequence[int], *, seed: int, global_batch: int, cursor: int = 0) -> Iterator[Window]:
    """Yield the windows of all steps from `cursor` on, without end.

    Args:
        image_ids: unique ids of the training images, in any order; not empty.
        seed: of the run.
        global_batch: images per step over all processes.
        cursor: images used so far, where a step ended.

    Raises:
        ValueError: without images, or when `cursor` lies within a step.
    """
    num_images = len(image_ids)
    if num_images == 0:
        raise ValueError("an order needs at least one image")
    step = step_of_cursor(cursor, num_images, global_batch)
    while True:
        epoch, offset = divmod(cursor, num_images)
        order = epoch_order(image_ids, seed, epoch).tolist()
        for start in range(offset, num_images, global_batch):
            window = Window(step, epoch, cursor, tuple(order[start : start + global_batch]))
            yield window
            step, cursor = step + 1, window.cursor_after
