"""cgF1: does the model find the objects of a phrase, and does it stay silent where there are none?

Each (image, phrase) pair is judged alone and without classes. Detections below the score threshold do not exist.

* pmF1, the positive micro F1: F1 over all objects of all pairs, where false positives count on pairs with objects only.
* IL_MCC: Matthews correlation, over pairs, between "has an object" and "has a detection".
* cgF1 = pmF1 * IL_MCC for each IoU threshold, then the mean over .50, .55, ... .95.

Source: the SAM 3 paper (arXiv 2511.16719, section on metrics) and the public evaluator of facebookresearch/sam3, whose
epsilons (1e-4 in precision, recall and F1, 1e-6 in the image-level rates) are kept. Values are 0..1; the paper prints
them times 100. cgF1 is 0 when every pair has objects, because a correlation with a constant is 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from sam3ft_trainer.evaluate.truth import Rle

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""The ten IoU thresholds of COCO."""
_EPS_F1 = 1e-4
_EPS_IMAGE = 1e-6
UNDEFINED = -1.0
"""Value of `positive_macro_F1` when no pair has both objects and detections."""

Counts = NDArray[np.int64] | NDArray[np.float64]
Shapes = Sequence[Rle] | NDArray[np.float64]
"""Masks, or boxes float64 [n, 4] as left, top, width, height in pixels."""


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """How one (image, phrase) pair came out; outcomes are added up in `summarize`.

    Attributes:
        num_truth: annotated objects of the pair, crowd regions left out.
        num_detections: detections at or above the score threshold.
        hits_10: int64 [10], objects found at each of `IOU_THRESHOLDS`.
    """

    num_truth: int
    num_detections: int
    hits_10: NDArray[np.int64]


def match_pair(truth: Shapes, detections: Shapes) -> PairOutcome:
    """Assign detections to objects so that the summed IoU is largest, and count the hits at each threshold.

    Args:
        truth: the pair's objects without crowd regions.
        detections: those at or above the score threshold, of the same kind as `truth`.
    """
    hits = np.zeros(len(IOU_THRESHOLDS), dtype=np.int64)
    if len(truth) and len(detections):
        iou_DN = _iou(detections, truth)
        rows, columns = linear_sum_assignment(-iou_DN)
        hits = (iou_DN[rows, columns][:, None] >= IOU_THRESHOLDS[None, :]).sum(axis=0)
    return PairOutcome(num_truth=len(truth), num_detections=len(detections), hits_10=hits)


def _iou(detections: Shapes, truth: Shapes) -> NDArray[np.float64]:
    """IoU [detections, truth] by the COCO tools, which take masks as dictionaries and boxes as arrays."""
    first = detections if isinstance(detections, np.ndarray) else list(detections)
    second = truth if isinstance(truth, np.ndarray) else list(truth)
    return np.asarray(coco_mask.iou(first, second, [0] * len(truth)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Cgf1Scores:
    """The summary over all pairs.

    Attributes:
        summary: means over the IoU thresholds, image-level rates, and the values at .50 and .75 (`cgF1@0.5`, ...).
        per_threshold: ten values of each count and rate.
        presence: pairs by presence of objects and detections: IL_TP, IL_FP, IL_TN, IL_FN.
    """

    summary: Mapping[str, float]
    per_threshold: Mapping[str, NDArray[np.float64]]
    presence: Mapping[str, int]

    @property
    def false_positive_rate_absent(self) -> float | None:
        """Share of pairs without an object in which something was detected; None when every pair has objects."""
        absent = self.presence["IL_FP"] + self.presence["IL_TN"]
        return self.presence["IL_FP"] / absent if absent else None


def summarize(outcomes: Iterable[PairOutcome]) -> Cgf1Scores:
    """Add up pairs and compute every rate; an empty iterable gives zeros."""
    pairs = list(outcomes)
    presence = _presence_counts(pairs)
    image_level = _image_level(presence)
    per_threshold = _per_threshold(pairs, image_level["IL_MCC"])
    rates = ("cgF1", "precision", "recall", "F1", "positive_macro_F1", "positive_micro_F1", "positive_micro_precision")
    summary = {name: _mean_or_undefined(per_threshold[name]) for name in rates} | image_level
    for threshold in (0.5, 0.75):
        index = int(np.argmin(np.abs(IOU_THRESHOLDS - threshold)))
        at_threshold = {name: per_threshold[name][index : index + 1] for name in rates}
        summary |= {f"{name}@{threshold}": _mean_or_undefined(value) for name, value in at_threshold.items()}
    return Cgf1Scores(summary=summary, per_threshold=per_threshold, presence=presence)


def _presence_counts(pairs: Sequence[PairOutcome]) -> dict[str, int]:
    """Count pairs by whether they have objects (positive) and detections (predicted positive)."""
    counts = {"IL_TP": 0, "IL_FP": 0, "IL_TN": 0, "IL_FN": 0}
    for pair in pairs:
        name = {(True, True): "IL_TP", (False, True): "IL_FP", (False, False): "IL_TN", (True, False): "IL_FN"}
        counts[name[pair.num_truth > 0, pair.num_detections > 0]] += 1
    return counts


def _image_level(presence: Mapping[str, int]) -> dict[str, float]:
    """Rates of the yes-or-no question "is the phrase in the image?"."""
    tp, fp, tn, fn = (presence[f"IL_{name}"] for name in ("TP", "FP", "TN", "FN"))
    precision, recall = tp / (tp + fp + _EPS_IMAGE), tp / (tp + fn + _EPS_IMAGE)
    spread = math.sqrt(float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "IL_precision": precision,
        "IL_recall": recall,
        "IL_F1": 2 * precision * recall / (precision + recall + _EPS_IMAGE),
        "IL_FPR": fp / (fp + tn + _EPS_IMAGE),
        "IL_MCC": (tp * tn - fp * fn) / (spread + _EPS_IMAGE),
    }


def _per_threshold(pairs: Sequence[PairOutcome], mcc: float) -> dict[str, NDArray[np.float64]]:
    """Counts and rates at each of the ten IoU thresholds."""
    hits = _sum(pair.hits_10 for pair in pairs)
    false = _sum(pair.num_detections - pair.hits_10 for pair in pairs)
    false_on_positives = _sum(pair.num_detections - pair.hits_10 for pair in pairs if pair.num_truth)
    missed = _sum(pair.num_truth - pair.hits_10 for pair in pairs)
    precision, recall = _share(hits, false), _share(hits, missed)
    positive_precision = _share(hits, false_on_positives)
    positive_f1 = _f1(positive_precision, recall)
    both = [pair for pair in pairs if pair.num_truth and pair.num_detections]
    local = [
        _f1(
            _share(pair.hits_10, pair.num_detections - pair.hits_10),
            _share(pair.hits_10, pair.num_truth - pair.hits_10),
        )
        for pair in both
    ]
    return {
        "TPs": hits,
        "FPs": false,
        "positive_micro_FPs": false_on_positives,
        "FNs": missed,
        "precision": precision,
        "positive_micro_precision": positive_precision,
        "recall": recall,
        "F1": _f1(precision, recall),
        "positive_micro_F1": positive_f1,
        "positive_macro_F1": np.mean(local, axis=0) if local else np.full(len(IOU_THRESHOLDS), np.nan),
        "cgF1": positive_f1 * mcc,
    }


def _sum(counts: Iterable[NDArray[np.int64]]) -> NDArray[np.float64]:
    total = np.zeros(len(IOU_THRESHOLDS))
    for count in counts:
        total += count
    return total


def _share(part: Counts, rest: Counts) -> NDArray[np.float64]:
    return np.asarray(part / (part + rest + _EPS_F1), dtype=np.float64)


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * precision * recall / (precision + recall + _EPS_F1)


def _mean_or_undefined(values: NDArray[np.float64]) -> float:
    return UNDEFINED if np.isnan(values).any() else float(values.mean())
