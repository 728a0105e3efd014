"""COCO scores: equal to pycocotools, and defined where the plain tools are not."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam3ft_trainer.evaluate.coco import Kind, box_rle, ground_truth_document, result_records, score_coco
from sam3ft_trainer.evaluate.truth import Detection, Truth, TruthObject

HEIGHT, WIDTH = 120, 160


def _object(image: int, category: int, box: Sequence[float], *, mask: bool = True, crowd: bool = False) -> TruthObject:
    left, top, width, height = box
    rle = box_rle(box, (HEIGHT, WIDTH)) if mask else None
    return TruthObject(image, category, (left, top, width, height), rle, width * height, crowd)


def _detection(image: int, category: int, score: float, box: Sequence[float]) -> Detection:
    left, top, width, height = box
    return Detection(image, category, score, (left, top, width, height), box_rle(box, (HEIGHT, WIDTH)))


def _truth(
    objects: Sequence[TruthObject], *, images: int = 2, exhaustive: frozenset[int] = frozenset({0, 1, 2})
) -> Truth:
    return Truth(
        sizes_hw=dict.fromkeys(range(images), (HEIGHT, WIDTH)),
        categories={0: "cell", 1: "platelet", 2: "never there"},
        objects=objects,
        exhaustive=exhaustive,
    )


def _random_case(seed: int, *, exhaustive: frozenset[int]) -> tuple[Truth, list[Detection]]:
    rng = np.random.default_rng(seed)

    def box() -> list[float]:
        width, height = rng.uniform(2, 110, size=2)
        return [*rng.uniform(-5, 100, size=2).round(2), round(width, 2), round(height, 2)]

    objects = [
        _object(
            int(image), int(rng.integers(0, 2)), box(), mask=bool(rng.random() > 0.1), crowd=bool(rng.random() < 0.1)
        )
        for image in range(12)
        for _ in range(rng.integers(0, 6))
    ]
    found = []
    for item in objects:
        for _ in range(rng.integers(0, 3)):
            near = np.array(item.box_xywh) + rng.normal(0, 4, size=4)
            near[2:] = np.maximum(near[2:], 1)
            found.append(_detection(item.image_id, item.category_id, round(float(rng.random()), 3), near.round(3)))
    found += [
        _detection(int(rng.integers(0, 12)), int(rng.integers(0, 3)), float(rng.random()), box()) for _ in range(40)
    ]
    return _truth(objects, images=12, exhaustive=exhaustive), found


def _reference(truth: Truth, found: list[Detection], kind: Kind, max_dets: int) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = ground_truth_document(truth, kind)
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(result_records(truth, found, kind)), kind)
        evaluator.params.maxDets = [max_dets]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("max_dets", [3, 100])
@pytest.mark.parametrize("exhaustive", [frozenset({0, 1, 2}), frozenset({1})])
def test_scores_equal_pycocotools(kind: Kind, max_dets: int, exhaustive: frozenset[int]) -> None:
    truth, found = _random_case(seed=max_dets, exhaustive=exhaustive)
    reference = _reference(truth, found, kind, max_dets)
    precision, recall = reference.eval["precision"], reference.eval["recall"]

    scores = score_coco(truth, found, kind=kind, max_dets=max_dets)

    def mean(values: np.ndarray) -> float | None:
        return float(values[values > -1].mean()) if (values > -1).any() else None

    assert mean(precision[:, :, :, 0, 0]) == pytest.approx(scores.summary["AP"], abs=1e-12)
    assert mean(precision[0, :, :, 0, 0]) == pytest.approx(scores.summary["AP50"], abs=1e-12)
    assert mean(precision[5, :, :, 0, 0]) == pytest.approx(scores.summary["AP75"], abs=1e-12)
    assert [mean(precision[:, :, :, area, 0]) for area in (1, 2, 3)] == [
        scores.summary[name] and pytest.approx(scores.summary[name], abs=1e-12)
        for name in ("AP_small", "AP_medium", "AP_large")
    ]
    assert mean(recall[:, :, 0, 0]) == pytest.approx(scores.summary["AR"], abs=1e-12)
    for index, category in enumerate((0, 1, 2)):
        assert mean(precision[:, :, index, 0, 0]) == (
            scores.per_class[category].ap and pytest.approx(scores.per_class[category].ap, abs=1e-12)
        )
    assert scores.summary["AP"] > 0.05


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_perfect_detector_scores_one(kind: Kind) -> None:
    boxes = [[10, 10, 30, 30], [60, 20, 40, 50]]
    truth = _truth([_object(0, 0, boxes[0]), _object(1, 1, boxes[1])])

    scores = score_coco(
        truth, [_detection(0, 0, 0.9, boxes[0]), _detection(1, 1, 0.8, boxes[1])], kind=kind, max_dets=10
    )

    assert (1.0, 1.0, 1.0) == (scores.summary["AP"], scores.summary["AP50"], scores.summary["AR"])
    assert scores.per_class[2].ap is None


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_no_predictions_score_zero(kind: Kind) -> None:
    scores = score_coco(_truth([_object(0, 0, [10, 10, 30, 30])]), [], kind=kind, max_dets=10)

    assert (0.0, 0.0) == (scores.summary["AP"], scores.summary["AR"])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_no_objects_leave_every_score_undefined(kind: Kind) -> None:
    scores = score_coco(_truth([]), [_detection(0, 0, 0.9, [1, 1, 5, 5])], kind=kind, max_dets=10)

    assert {None} == set(scores.summary.values())


def test_nothing_at_all_does_not_crash() -> None:
    scores = score_coco(_truth([], images=0), [], kind="bbox", max_dets=10)

    assert {None} == set(scores.summary.values())


def test_the_first_object_counts_although_its_id_in_the_file_was_zero() -> None:
    truth = _truth([_object(0, 0, [10, 10, 30, 30])])

    scores = score_coco(truth, [_detection(0, 0, 0.9, [10, 10, 30, 30])], kind="bbox", max_dets=10)

    assert [1] == [record["id"] for record in ground_truth_document(truth, "bbox")["annotations"]]
    assert scores.summary["AP"] == 1.0


def test_detections_inside_a_crowd_region_are_neither_right_nor_wrong() -> None:
    truth = _truth([_object(0, 0, [10, 10, 30, 30]), _object(0, 0, [60, 60, 50, 50], crowd=True)])
    found = [_detection(0, 0, 0.95, [62, 62, 10, 10]), _detection(0, 0, 0.9, [10, 10, 30, 30])]

    assert score_coco(truth, found, kind="bbox", max_dets=10).summary["AP"] == 1.0


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_unmatched_detections_of_a_category_that_is_not_exhaustive_cost_nothing(kind: Kind) -> None:
    objects = [_object(0, 0, [10, 10, 30, 30])]
    outside = _detection(0, 0, 0.99, [150, 100, 40, 60])
    found = [outside, _detection(1, 0, 0.95, [5, 5, 20, 20]), _detection(0, 0, 0.9, [10, 10, 30, 30])]

    partial = score_coco(_truth(objects, exhaustive=frozenset({1, 2})), found, kind=kind, max_dets=10)
    complete = score_coco(_truth(objects), found, kind=kind, max_dets=10)

    assert partial.summary["AP"] == 1.0
    assert complete.summary["AP"] == pytest.approx(1 / 3)


def test_an_object_without_a_mask_is_ignored_when_masks_are_scored() -> None:
    truth = _truth([_object(0, 0, [10, 10, 30, 30]), _object(0, 0, [60, 60, 40, 40], mask=False)])
    found = [_detection(0, 0, 0.95, [62, 62, 30, 30]), _detection(0, 0, 0.9, [10, 10, 30, 30])]

    assert score_coco(truth, found, kind="segm", max_dets=10).summary["AP"] == 1.0
    assert score_coco(truth, found, kind="bbox", max_dets=10).summary["AP"] < 1.0


def test_masks_cannot_be_scored_without_masks() -> None:
    bare = Detection(0, 0, 0.5, (0, 0, 5, 5))

    with pytest.raises(ValueError, match="image 0 has no mask"):
        score_coco(_truth([_object(0, 0, [0, 0, 5, 5])]), [bare], kind="segm", max_dets=10)


def test_detections_kept_for_cgf1_alone_do_not_count() -> None:
    wrong = _detection(0, 0, 0.99, [90, 90, 5, 5])._replace(for_ap=False)
    truth = _truth([_object(0, 0, [10, 10, 30, 30])])

    scores = score_coco(truth, [wrong, _detection(0, 0, 0.5, [10, 10, 30, 30])], kind="bbox", max_dets=10)

    assert scores.summary["AP"] == 1.0
