"""COCO average precision and recall of boxes and masks, with the ranges, thresholds and matching of the COCO tools.

faster-coco-eval computes, in C++, the same numbers as pycocotools (a test compares them). What is decided here:

* Annotation ids start at 1: to the COCO tools an object with id 0 is one that nobody found.
* Categories that are not annotated completely get a crowd region as large as the plane in every image: a detection that
  finds an annotated object counts, any other is neither right nor wrong.
* When masks are scored, an object without a mask is a crowd region with the shape of its box, for the same reason.
* A value that no object defines (a category without objects, no large object) is None, never NaN.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam3ft_trainer.evaluate.truth import Detection, Rle, Truth, TruthObject

Kind = Literal["bbox", "segm"]
_PLANE_XYWH = (-1e7, -1e7, 2e7, 2e7)
"""A box that contains every detection, however far it reaches out of its image."""
_AREAS = ("all", "small", "medium", "large")
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one category; None where the category has no object.

    Attributes:
        ap: mean over IoU .50:.05:.95 of the average precision.
        ap50: average precision at IoU .50.
        ar: mean over the same thresholds of the recall reached within `max_dets`.
    """

    ap: float | None
    ap50: float | None
    ar: float | None


@dataclass(frozen=True, slots=True)
class CocoScores:
    """Scores of one split for one kind of shape.

    Attributes:
        kind: `bbox` or `segm`.
        summary: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR; means over the categories that have objects.
            Small is below 32x32 pixels, large above 96x96.
        per_class: by category id, every scored category.
    """

    kind: Kind
    summary: Mapping[str, float | None]
    per_class: Mapping[int, ClassScores]


def score_coco(truth: Truth, detections: Iterable[Detection], *, kind: Kind, max_dets: int) -> CocoScores:
    """Score the detections that count for AP.

    Args:
        truth: annotated images; detections of other images or categories are an error of the caller.
        detections: of all ranks together, each image once.
        kind: boxes or masks; masks need detections with masks.
        max_dets: detections of one category that count in one image; recall is measured within as many.
    """
    ground_truth = COCO(ground_truth_document(truth, kind))
    found = ground_truth.loadRes(result_records(truth, detections, kind))
    evaluator = COCOeval_faster(ground_truth, found, iouType=kind, print_function=_quiet)
    evaluator.params.maxDets = [max_dets]
    evaluator.evaluate()
    evaluator.accumulate()
    return _read_out(evaluator, kind)


def _quiet(*_: object) -> None:
    """Swallow the library's progress lines; the scores are reported by the caller."""


def ground_truth_document(truth: Truth, kind: Kind) -> dict[str, Any]:
    """Return the truth as the COCO document that is scored, with the regions that are to be ignored as crowd."""
    records = [_record(item, truth, kind) for item in truth.objects]
    records += [
        _ignored_plane(image_id, category_id, size_hw, kind)
        for image_id, size_hw in truth.sizes_hw.items()
        for category_id in truth.categories
        if category_id not in truth.exhaustive
    ]
    return {
        "images": [
            {"id": image_id, "height": height, "width": width} for image_id, (height, width) in truth.sizes_hw.items()
        ],
        "categories": [{"id": key, "name": name} for key, name in truth.categories.items()],
        "annotations": [{**record, "id": number} for number, record in enumerate(records, start=1)],
    }


def _record(item: TruthObject, truth: Truth, kind: Kind) -> dict[str, Any]:
    record: dict[str, Any] = {
        "image_id": item.image_id,
        "category_id": item.category_id,
        "bbox": list(item.box_xywh),
        "area": item.area,
        "iscrowd": int(item.is_crowd),
    }
    if kind == "segm":
        record["segmentation"] = item.rle or box_rle(item.box_xywh, truth.sizes_hw[item.image_id])
        record["iscrowd"] = int(item.is_crowd or item.rle is None)
    return record


def _ignored_plane(image_id: int, category_id: int, size_hw: tuple[int, int], kind: Kind) -> dict[str, Any]:
    height, width = size_hw
    record: dict[str, Any] = {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(_PLANE_XYWH),
        "area": float(height * width),
        "iscrowd": 1,
    }
    if kind == "segm":
        record["segmentation"] = box_rle((0, 0, width, height), size_hw)
    return record


def box_rle(box_xywh: Sequence[float], size_hw: tuple[int, int]) -> Rle:
    """Return the part of a box inside the image as a mask, rounded outwards to whole pixels, at least one pixel."""
    height, width = size_hw
    left, top = (
        min(max(int(np.floor(value)), 0), limit - 1) for value, limit in ((box_xywh[0], width), (box_xywh[1], height))
    )
    right = min(max(int(np.ceil(box_xywh[0] + box_xywh[2])), left + 1), width)
    bottom = min(max(int(np.ceil(box_xywh[1] + box_xywh[3])), top + 1), height)
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    return Rle(size=[height, width], counts=coco_mask.encode(mask)["counts"].decode("ascii"))


def result_records(truth: Truth, detections: Iterable[Detection], kind: Kind) -> list[dict[str, Any]]:
    """Return the detections that count for AP as COCO result records.

    A detection with an empty mask in a category that is not annotated completely is left out: it touches no region, so
    the COCO tools could not ignore it.

    Raises:
        ValueError: masks are to be scored and a detection has none.
    """
    records: list[dict[str, Any]] = []
    for item in detections:
        if not item.for_ap:
            continue
        record: dict[str, Any] = {"image_id": item.image_id, "category_id": item.category_id, "score": item.score}
        if kind == "bbox":
            records.append({**record, "bbox": list(item.box_xywh)})
            continue
        if item.rle is None:
            raise ValueError(f"masks are to be scored, but a detection in image {item.image_id} has no mask")
        if item.category_id in truth.exhaustive or coco_mask.area(dict(item.rle)) > 0:
            records.append({**record, "segmentation": dict(item.rle)})
    return records


def _read_out(evaluator: Any, kind: Kind) -> CocoScores:
    """Read the accumulated arrays: precision [T, R, K, A, M] and recall [T, K, A, M], -1 where undefined."""
    shape = evaluator.eval["counts"]
    precision: NDArray[np.float64] = np.asarray(evaluator.eval["precision"]).reshape(shape)
    recall: NDArray[np.float64] = np.asarray(evaluator.eval["recall"]).reshape([shape[0], *shape[2:]])
    summary = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[_IOU_50, :, :, 0, -1]),
        "AP75": _mean(precision[_IOU_75, :, :, 0, -1]),
    }
    summary |= {f"AP_{name}": _mean(precision[:, :, :, area, -1]) for area, name in enumerate(_AREAS) if area}
    summary["AR"] = _mean(recall[:, :, 0, -1])
    per_class = {
        int(category_id): ClassScores(
            ap=_mean(precision[:, :, index, 0, -1]),
            ap50=_mean(precision[_IOU_50, :, index, 0, -1]),
            ar=_mean(recall[:, index, 0, -1]),
        )
        for index, category_id in enumerate(evaluator.params.catIds)
    }
    return CocoScores(kind=kind, summary=summary, per_class=per_class)


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of the defined values; None when none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
