"""The account of a split: counts by category, and what upstream's filters will drop. Pure."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.augment import train_sides
from sam3ft_trainer.data.geometry import clamp_boxes
from sam3ft_trainer.data.index import CocoIndex, Ints
from sam3ft_trainer.data.layout import Split
from sam3ft_trainer.data.phrases import PhraseBook
from sam3ft_trainer.data.report import CategoryCount, DatasetReport, DroppedObjects, ProblemLog


def account_of(
    index: CocoIndex,
    rows: Ints,
    book: PhraseBook,
    log: ProblemLog,
    *,
    config: TrainingConfig,
    split: Split,
    address: str,
) -> DatasetReport:
    """Return the report of the images `rows` of an annotation file."""
    mine = np.isin(index.image_rows, rows)
    crowd = int((mine & index.is_crowd).sum())
    if crowd and split == "train":
        log.add(
            "crowd_region", "notice", f"{crowd} crowd regions are not trained on; the metrics ignore them", count=crowd
        )
    dropped = dropped_objects(index, rows, config) if split == "train" else DroppedObjects()
    _notice_dropped(dropped, config, log)
    counts = np.diff(index.starts)[rows]
    return DatasetReport(
        split=split,
        address=address,
        digest=index.digest,
        images=len(rows),
        annotations=int(counts.sum()),
        empty_images=int((counts == 0).sum()),
        held_out=len(index.image_ids) - len(rows),
        decoded=False,
        categories=_category_counts(index, mine, book),
        problems=log.problems(),
        dropped=dropped,
        phrases=book.all_phrases(index),
    )


def dropped_objects(index: CocoIndex, rows: Ints, config: TrainingConfig) -> DroppedObjects:
    """Return what the size and count filters take from training, with tiles and crops not counted in.

    The size filter compares (clamped w * h as a fraction) * (s/W) * (s/H) with `data.bounds.min_area`; the drawn side s
    decides, so the smallest and the largest one bound the answer.
    """
    sides = train_sides(config.scratch.resolution, config.augment.min_scale)
    if not config.augment.resize_and_pad:
        sides = (config.scratch.resolution,)
    bounds = config.data.bounds
    always = sometimes = crowded_pairs = crowded_objects = 0
    for row in rows.tolist():
        span = index.rows_of(row)
        solid = index.is_usable[span] & ~index.is_crowd[span]
        if not solid.any():
            continue
        height, width = index.sizes_hw[row].tolist()
        _, areas = clamp_boxes(index.boxes_m4[span][solid], height=height, width=width)
        at_largest, at_smallest = (areas * (side / width) * (side / height) for side in (max(sides), min(sides)))
        is_lost = at_largest < bounds.min_area
        always += int(is_lost.sum())
        sometimes += int(((at_smallest < bounds.min_area) & ~is_lost).sum())
        per_category = np.bincount(index.category_rows[span][solid][~is_lost])
        full = per_category[per_category > bounds.max_objects_per_phrase]
        crowded_pairs, crowded_objects = crowded_pairs + len(full), crowded_objects + int(full.sum())
    return DroppedObjects(always, sometimes, crowded_pairs, crowded_objects)


def _notice_dropped(dropped: DroppedObjects, config: TrainingConfig, log: ProblemLog) -> None:
    bounds = config.data.bounds
    if dropped.small_always or dropped.small_sometimes:
        log.add(
            "small_objects_dropped",
            "notice",
            f"{dropped.small_always} objects are below data.bounds.min_area {bounds.min_area} at every scale, "
            f"{dropped.small_sometimes} more at the smaller ones; those are not trained on. Lower the bound, or cut "
            "tiles with augment.tiles",
            count=dropped.small_always + dropped.small_sometimes,
        )
    if dropped.crowded_pairs:
        log.add(
            "crowded_phrases_dropped",
            "notice",
            f"{dropped.crowded_pairs} times a phrase has more than {bounds.max_objects_per_phrase} objects in an "
            f"image; these {dropped.crowded_objects} objects are not trained on. Raise "
            "data.bounds.max_objects_per_phrase, or cut tiles with augment.tiles",
            count=dropped.crowded_objects,
        )


def _category_counts(index: CocoIndex, mine: npt.NDArray[np.bool_], book: PhraseBook) -> tuple[CategoryCount, ...]:
    phrases = dict(zip((category.id for category in book.categories), book.phrases, strict=True))
    counts = []
    for row, category in enumerate(index.categories):
        ours = mine & (index.category_rows == row) & index.is_usable
        solid = ours & ~index.is_crowd
        counts.append(
            CategoryCount(
                id=category.id,
                name=category.name,
                phrases=phrases.get(category.id, ()),
                images=len(np.unique(index.image_rows[solid])),
                objects=int(solid.sum()),
                masks=int((solid & index.has_mask).sum()),
                crowd=int((ours & index.is_crowd).sum()),
                asked=category.id in phrases,
            )
        )
    return tuple(counts)


def with_problems(report: DatasetReport, log: ProblemLog) -> DatasetReport:
    """Return `report` with the findings of reading every image added to its problems."""
    found = {problem.kind: problem for problem in report.problems}
    found.update({problem.kind: problem for problem in log.problems()})
    rank = ("bad", "mended", "notice")
    ordered = sorted(found.values(), key=lambda problem: rank.index(problem.severity))
    return replace(report, problems=tuple(ordered), decoded=True)
