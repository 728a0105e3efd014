"""Post-processing against upstream: scores, boxes and masks of all queries, and the selection per image."""

import numpy as np
import pytest
import torch
from oracle_cases import OracleCase
from pycocotools import mask as coco_mask

from sam3ft_trainer.evaluate.postprocess import (
    Limits,
    PairKey,
    boxes_in_pixels,
    choose_detections,
    collect_candidates,
    masks_in_pixels,
    postprocess,
    scores_of,
)
from sam3ft_trainer.evaluate.truth import Detection
from sam3ft_trainer.tensors import Predictions


def _sizes(case: OracleCase) -> list[tuple[int, int]]:
    return [(int(h), int(w)) for h, w in case.tensors["in.original_size_hw"].tolist()]


def _pairs(case: OracleCase) -> list[PairKey]:
    ids = zip(case.tensors["in.image_id"].tolist(), case.tensors["in.category_id"].tolist(), _sizes(case), strict=True)
    return [PairKey(image, category, size) for image, category, size in ids]


def _predictions(case: OracleCase) -> Predictions:
    given = case.starting_with("in.")
    return Predictions(
        logits_LBQ=given["pred_logits"][None],
        boxes_LBQ4=given["pred_boxes"][None],
        presence_LB=given["presence_logits"][None],
        masks_BQhw=given.get("pred_masks"),
    )


def _part(predictions: Predictions, rows: list[int]) -> Predictions:
    masks = predictions.masks_BQhw
    return Predictions(
        logits_LBQ=predictions.logits_LBQ[:, rows],
        boxes_LBQ4=predictions.boxes_LBQ4[:, rows],
        presence_LB=predictions.presence_LB[:, rows],
        masks_BQhw=None if masks is None else masks[rows],
    )


@pytest.mark.oracle_cases("postprocess_*")
def test_scores_and_boxes_of_all_queries_equal_upstream(case: OracleCase) -> None:
    scores = scores_of(case.tensors["in.pred_logits"], case.tensors["in.presence_logits"])
    boxes = boxes_in_pixels(case.tensors["in.pred_boxes"], _sizes(case))

    torch.testing.assert_close(scores, case.tensors["out.scores"], rtol=0, atol=1e-6)
    torch.testing.assert_close(boxes, case.tensors["out.boxes_xyxy"], rtol=0, atol=1e-3)


@pytest.mark.oracle_cases("postprocess_*")
def test_masks_equal_upstream_but_for_pixels_on_the_edge(case: OracleCase) -> None:
    expected = case.starting_with("out.masks.")
    undecided = case.settings.get("mask_pixels_with_logit_within_1e-4_of_zero", [])

    for pair, size_hw in enumerate(_sizes(case) if expected else []):
        masks = masks_in_pixels(case.tensors["in.pred_masks"][pair], size_hw)

        assert int((masks != expected[str(pair)].bool()).sum()) <= undecided[pair]


def _assert_selection(case: OracleCase, detections: list[Detection]) -> None:
    expected = sorted(
        case.settings["coco_detections"], key=lambda item: (item["image_id"], item["category_id"], -item["score"])
    )
    ours = sorted((item for item in detections if item.for_ap), key=lambda item: (item[0], item[1], -item.score))
    assert len(expected) == len(ours)
    for wanted, item in zip(expected, ours, strict=True):
        assert (wanted["image_id"], wanted["category_id"]) == (item.image_id, item.category_id)
        assert wanted["score"] == pytest.approx(item.score, abs=1e-6)
        np.testing.assert_allclose(wanted["bbox"], item.box_xywh, rtol=0, atol=1e-3)
        if "segmentation" in wanted:
            overlap = coco_mask.iou([wanted["segmentation"]], [item.rle], [0])[0][0]
            both_empty = coco_mask.area(wanted["segmentation"]) == coco_mask.area(item.rle) == 0
            assert overlap > 0.98 or both_empty


@pytest.mark.oracle_cases("postprocess_*")
def test_selection_of_the_best_per_image_equals_upstream(case: OracleCase) -> None:
    limits = Limits(max_dets=case.settings["max_dets_per_image"])

    _assert_selection(case, postprocess(_predictions(case), _pairs(case), limits))


@pytest.mark.oracle_cases("postprocess_*")
def test_selection_from_pairs_in_chunks_equals_upstream(case: OracleCase) -> None:
    limits = Limits(max_dets=case.settings["max_dets_per_image"])
    predictions, pairs = _predictions(case), _pairs(case)
    chunks = [collect_candidates(_part(predictions, [row]), [pairs[row]], limits) for row in range(len(pairs))]

    _assert_selection(case, choose_detections(chunks, limits))
