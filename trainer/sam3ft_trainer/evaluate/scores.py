"""The scores of one split, from truth and detections: what selects a model, what the report shows.

Pure: no model, no files, no process group. Names of metrics:

* `bbox_AP`, `bbox_AP50`, `bbox_AP75`, `bbox_AP_small`, `bbox_AP_medium`, `bbox_AP_large`, `bbox_AR`, and the same with
  `segm_` in segmentation.
* `cgF1`, `pmF1`, `IL_MCC`: on masks in segmentation when the truth has masks, on boxes otherwise.
* `fp_absent_rate`: share of the pairs (image, category absent from it) in which something was detected.

All are 0..1, larger is better but for `fp_absent_rate`; None means that nothing in the split defines the value.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from sam3ft_trainer.evaluate.cgf1 import Cgf1Scores, PairOutcome, Shapes, match_pair, summarize
from sam3ft_trainer.evaluate.coco import CocoScores, Kind, score_coco
from sam3ft_trainer.evaluate.postprocess import Limits
from sam3ft_trainer.evaluate.truth import Detection, Rle, Truth


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class ClassRow(_Record):
    """Scores of one category; None where nothing defines a value.

    Attributes:
        category_id: COCO id.
        name: category name.
        images: images with at least one object of it.
        objects: objects, crowd regions left out.
        exhaustive: annotated completely, so that absence counts.
    """

    category_id: int
    name: str
    images: int
    objects: int
    exhaustive: bool = True
    bbox_AP: float | None = None
    bbox_AP50: float | None = None
    bbox_AR: float | None = None
    segm_AP: float | None = None
    segm_AP50: float | None = None
    segm_AR: float | None = None
    fp_absent_rate: float | None = None


class KeptDetection(_Record):
    """A detection kept for the pictures of the report; box in pixels of the original image."""

    category_id: int
    score: float
    box_xywh: tuple[float, float, float, float]
    rle: Rle | None = None


class Picture(_Record):
    """What a model found in one image, best first."""

    image_id: int
    detections: tuple[KeptDetection, ...]


class SplitScores(_Record):
    """Everything an evaluation hands back; written to JSON as it is.

    Attributes:
        split: `train`, `valid` or `test`.
        images: images scored.
        unreadable_images: images left out because they could not be read.
        metrics: by name; see the module.
        per_class: one row for each category, in id order.
        pictures: detections of a few images.
        seconds: wall-clock time of the evaluation.
    """

    split: str
    images: int
    unreadable_images: int = 0
    metrics: dict[str, float | None]
    per_class: tuple[ClassRow, ...]
    pictures: tuple[Picture, ...] = ()
    seconds: float = 0.0

    def value(self, metric: str) -> float:
        """Return a metric as a number that can be compared; an undefined one is 0, the worst.

        Raises:
            KeyError: the evaluation has no metric of that name.
        """
        return self.metrics[metric] or 0.0

    def finite_metrics(self) -> dict[str, float]:
        """Return the metrics that are defined."""
        return {name: value for name, value in self.metrics.items() if value is not None}

    def without_pictures(self) -> Self:
        """Return the scores alone, for logs."""
        return self.model_copy(update={"pictures": ()})


def score_detections(
    truth: Truth, detections: Sequence[Detection], *, split: str, limits: Limits, masks: bool, pictures: int = 0
) -> SplitScores:
    """Compute every metric of a split.

    Args:
        truth: the images that were scored, and only those.
        detections: of all ranks, each image once.
        split: name for the record.
        limits: as used to choose the detections.
        masks: score masks too; ignored when the truth has none.
        pictures: number of images whose detections are kept.
    """
    kinds: tuple[Kind, ...] = ("bbox", "segm") if masks and truth.has_masks else ("bbox",)
    coco = {kind: score_coco(truth, detections, kind=kind, max_dets=limits.max_dets) for kind in kinds}
    outcomes = pair_outcomes(truth, detections, kind=kinds[-1], threshold=limits.score_threshold)
    overall = summarize(outcomes.values())
    metrics: dict[str, float | None] = {
        f"{kind}_{name}": value for kind in kinds for name, value in coco[kind].summary.items()
    }
    metrics |= {
        "cgF1": overall.summary["cgF1"] if outcomes else None,
        "pmF1": overall.summary["positive_micro_F1"] if outcomes else None,
        "IL_MCC": overall.summary["IL_MCC"] if outcomes else None,
        "fp_absent_rate": overall.false_positive_rate_absent,
    }
    return SplitScores(
        split=split,
        images=len(truth.sizes_hw),
        metrics=metrics,
        per_class=_class_rows(truth, coco, outcomes),
        pictures=_pictures(truth, detections, pictures),
    )


def pair_outcomes(
    truth: Truth, detections: Iterable[Detection], *, kind: Kind, threshold: float
) -> dict[tuple[int, int], PairOutcome]:
    """Judge every (image, category) pair of the exhaustive categories for cgF1.

    Objects in crowd regions, and without a mask when masks are compared, are left out.
    """
    objects: dict[tuple[int, int], list[tuple[Rle | None, Sequence[float]]]] = defaultdict(list)
    found: dict[tuple[int, int], list[tuple[Rle | None, Sequence[float]]]] = defaultdict(list)
    for item in truth.objects:
        if not item.is_crowd and (kind == "bbox" or item.rle is not None):
            objects[item.image_id, item.category_id].append((item.rle, item.box_xywh))
    for detection in detections:
        if detection.score >= threshold:
            found[detection.image_id, detection.category_id].append((detection.rle, detection.box_xywh))
    pairs = ((image_id, category_id) for image_id in truth.sizes_hw for category_id in sorted(truth.exhaustive))
    return {pair: match_pair(_shapes(objects[pair], kind), _shapes(found[pair], kind)) for pair in pairs}


def _shapes(items: Sequence[tuple[Rle | None, Sequence[float]]], kind: Kind) -> Shapes:
    if kind == "segm":
        return [rle for rle, _ in items if rle is not None]
    return np.array([box for _, box in items], dtype=np.float64).reshape(-1, 4)


def _class_rows(
    truth: Truth, coco: Mapping[Kind, CocoScores], outcomes: Mapping[tuple[int, int], PairOutcome]
) -> tuple[ClassRow, ...]:
    images: dict[int, set[int]] = defaultdict(set)
    objects: dict[int, int] = defaultdict(int)
    for item in truth.objects:
        if not item.is_crowd:
            images[item.category_id].add(item.image_id)
            objects[item.category_id] += 1
    of_class: dict[int, list[PairOutcome]] = defaultdict(list)
    for (_, category_id), outcome in outcomes.items():
        of_class[category_id].append(outcome)
    rows = []
    for category_id, name in sorted(truth.categories.items()):
        presence: Cgf1Scores = summarize(of_class[category_id])
        shapes = {
            f"{kind}_{label}": getattr(scores.per_class[category_id], field)
            for kind, scores in coco.items()
            for label, field in (("AP", "ap"), ("AP50", "ap50"), ("AR", "ar"))
        }
        rows.append(
            ClassRow(
                category_id=category_id,
                name=name,
                images=len(images[category_id]),
                objects=objects[category_id],
                exhaustive=category_id in truth.exhaustive,
                fp_absent_rate=presence.false_positive_rate_absent,
                **shapes,
            )
        )
    return tuple(rows)


def _pictures(truth: Truth, detections: Iterable[Detection], count: int) -> tuple[Picture, ...]:
    chosen = choose_pictures(truth, count)
    by_image: dict[int, list[Detection]] = {image_id: [] for image_id in chosen}
    for item in detections:
        if item.image_id in by_image and item.for_ap:
            by_image[item.image_id].append(item)
    return tuple(
        Picture(
            image_id=image_id,
            detections=tuple(
                KeptDetection(category_id=item.category_id, score=item.score, box_xywh=item.box_xywh, rle=item.rle)
                for item in sorted(by_image[image_id], key=lambda item: -item.score)
            ),
        )
        for image_id in chosen
    )


def choose_pictures(truth: Truth, count: int) -> tuple[int, ...]:
    """Choose image ids for the report: spread evenly over the images with objects, then over the others.

    The same truth gives the same ids, so that pictures of two models can stand side by side.
    """
    with_objects = {item.image_id for item in truth.objects if not item.is_crowd}
    first = sorted(with_objects & set(truth.sizes_hw))
    rest = sorted(set(truth.sizes_hw) - with_objects)
    if count <= len(first):
        return tuple(first[index * len(first) // count] for index in range(count)) if count > 0 else ()
    return tuple(first + rest[: count - len(first)])
