"""Which images of a file belong to a split: the hold-out of train, and few-shot subsets. Pure."""

from collections.abc import Sequence

import numpy as np

from sam3ft_trainer.data.index import CocoIndex, Ints
from sam3ft_trainer.data.seeds import hash64

EXPORT_MARK = ".rf."
"""Roboflow writes NAME.rf.HASH.jpg; augmented copies of one picture share NAME."""


def holdout_rows(file_names: Sequence[str], *, share: float, seed: int) -> Ints:
    """Return the image rows that are held out of train for selection.

    Pictures are ordered by a hash of (seed, name) and the first `share` of them is taken, at least one and not all, so
    that a picture stays on its side when others are added. Copies of one picture that Roboflow's export made (their
    names agree up to `.rf.`) stay together: a copy in train would make the selection blind to overfitting.

    Returns:
        int64, ascending; empty when there is only one picture.
    """
    pictures = [name.split(EXPORT_MARK)[0] for name in file_names]
    unique = sorted(set(pictures), key=lambda picture: (hash64("holdout", seed, picture), picture))
    if len(unique) < 2:
        return np.zeros(0, dtype=np.int64)
    count = min(max(1, round(share * len(unique))), len(unique) - 1)
    chosen = set(unique[:count])
    return np.asarray([row for row, picture in enumerate(pictures) if picture in chosen], dtype=np.int64)


def few_shot_rows(index: CocoIndex, rows: Ints, *, shots: int, seed: int) -> tuple[Ints, dict[str, int]]:
    """Return a subset of image rows with at least `shots` annotated images for each category.

    Images are visited in the order of a hash of (seed, image id); one is taken when a category in it still lacks
    images, so no image is taken without need. Images without usable objects are never taken.

    Returns:
        int64 rows, ascending, and the categories that have fewer than `shots` images at all, with their number.
    """
    lacking = {row: shots for row in range(len(index.categories)) if (index.category_rows == row).any()}
    taken = []
    for row in sorted(rows.tolist(), key=lambda row: hash64("few shot", seed, int(index.image_ids[row]))):
        span = index.rows_of(row)
        usable = index.is_usable[span] & ~index.is_crowd[span]
        present = set(index.category_rows[span][usable].tolist())
        if any(lacking[category] > 0 for category in present):
            taken.append(row)
            for category in present:
                lacking[category] -= 1
    short = {index.categories[row].name: shots - missing for row, missing in lacking.items() if missing > 0}
    return np.asarray(sorted(taken), dtype=np.int64), short
