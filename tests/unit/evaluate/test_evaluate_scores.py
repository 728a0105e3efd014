"""Selection of detections, cgF1 on pairs, and the record that an evaluation hands back."""

import numpy as np
import pytest
import torch

from sam3ft_trainer.evaluate.cgf1 import match_pair, summarize
from sam3ft_trainer.evaluate.coco import box_rle
from sam3ft_trainer.evaluate.postprocess import Limits, PairKey, encode_masks, postprocess
from sam3ft_trainer.evaluate.scores import choose_pictures, pair_outcomes, score_detections
from sam3ft_trainer.evaluate.truth import Detection, Truth, TruthObject
from sam3ft_trainer.tensors import Predictions

BOX = (10.0, 10.0, 20.0, 20.0)


def _predictions(logits_BQ: list[list[float]]) -> Predictions:
    logits = torch.tensor(logits_BQ)
    return Predictions(
        logits_LBQ=logits[None],
        boxes_LBQ4=torch.tensor([0.5, 0.5, 0.25, 0.5]).expand(1, *logits.shape, 4),
        presence_LB=torch.full((1, logits.shape[0]), 100.0),
    )


def _pairs(*images: int) -> list[PairKey]:
    return [PairKey(image, category, (100, 200)) for category, image in enumerate(images)]


def test_the_best_are_chosen_over_all_categories_of_an_image() -> None:
    found = postprocess(_predictions([[3.0, -3.0], [2.0, 1.0], [-5.0, -5.0]]), _pairs(1, 1, 2), Limits(max_dets=2))

    assert [(1, 0), (1, 1), (2, 2), (2, 2)] == [(item.image_id, item.category_id) for item in found if item.for_ap]
    assert {(75.0, 25.0, 50.0, 50.0)} == {item.box_xywh for item in found}


def test_detections_above_the_threshold_stay_for_cgf1_beyond_the_best_of_the_image() -> None:
    found = postprocess(_predictions([[3.0, 2.0], [1.0, -1.0]]), _pairs(1, 1), Limits(max_dets=1, score_threshold=0.6))

    assert [(0.95257, True), (0.73106, False)] == [(item.score, item.for_ap) for item in found]


def test_equal_scores_at_the_cut_keep_the_earlier_query() -> None:
    predictions = _predictions([[0.0, 0.0, 0.0]])
    boxes = torch.tensor([[[[0.1, 0.5, 0.1, 0.1], [0.2, 0.5, 0.1, 0.1], [0.3, 0.5, 0.1, 0.1]]]])
    predictions = Predictions(predictions.logits_LBQ, boxes, predictions.presence_LB)

    found = postprocess(predictions, _pairs(1), Limits(max_dets=2, score_threshold=0.9))

    assert [10.0, 30.0] == [item.box_xywh[0] for item in found]


def test_keys_and_pairs_must_agree() -> None:
    with pytest.raises(ValueError, match="1 keys for predictions of 2 pairs"):
        postprocess(_predictions([[0.0], [0.0]]), _pairs(1), Limits())


def test_masks_in_chunks_equal_masks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    at_once = encode_masks(logits, (30, 20))

    monkeypatch.setattr("sam3ft_trainer.evaluate.postprocess._MASK_PIXELS_PER_CHUNK", 700)

    assert at_once == encode_masks(logits, (30, 20))
    assert 5 == len(at_once)


def test_cgf1_is_the_product_of_localisation_and_presence() -> None:
    box = np.array([BOX])
    nothing = np.zeros((0, 4))
    outcomes = [match_pair(box, box), match_pair(nothing, nothing), match_pair(nothing, box), match_pair(box, nothing)]

    scores = summarize(outcomes)

    assert {"IL_TP": 1, "IL_FP": 1, "IL_TN": 1, "IL_FN": 1} == dict(scores.presence)
    assert scores.summary["IL_MCC"] == pytest.approx(0.0)
    assert scores.summary["positive_micro_F1"] == pytest.approx(2 / 3, abs=1e-3)
    assert scores.false_positive_rate_absent == 0.5
    assert summarize([match_pair(box, box)]).false_positive_rate_absent is None


def _truth(**changes: object) -> Truth:
    given: dict[str, object] = {
        "sizes_hw": {1: (100, 100), 2: (100, 100), 3: (100, 100)},
        "categories": {5: "cell", 7: "platelet"},
        "objects": [
            TruthObject(1, 5, BOX, None, 400.0, is_crowd=False),
            TruthObject(2, 7, BOX, None, 400.0, is_crowd=False),
            TruthObject(2, 7, (50.0, 50.0, 40.0, 40.0), None, 1600.0, is_crowd=True),
        ],
        "exhaustive": frozenset({5, 7}),
    }
    return Truth(**(given | changes))  # type: ignore[arg-type]


def test_false_alarms_are_counted_where_a_phrase_is_absent() -> None:
    found = [Detection(1, 5, 0.9, BOX), Detection(1, 7, 0.6, BOX), Detection(3, 7, 0.4, BOX)]

    scores = score_detections(_truth(), found, split="test", limits=Limits(), masks=False)

    assert scores.metrics["fp_absent_rate"] == 0.25
    assert [("cell", 1, 1, 0.0), ("platelet", 1, 1, 0.5)] == [
        (row.name, row.images, row.objects, row.fp_absent_rate) for row in scores.per_class
    ]
    assert scores.per_class[0].bbox_AP == pytest.approx(1.0)
    assert scores.value("bbox_AP") == pytest.approx(0.5)


def test_categories_that_are_not_exhaustive_are_no_pairs_of_cgf1() -> None:
    outcomes = pair_outcomes(_truth(exhaustive=frozenset({5})), [], kind="bbox", threshold=0.5)

    assert [(1, 5), (2, 5), (3, 5)] == list(outcomes)


def test_masks_are_scored_only_where_the_truth_has_some() -> None:
    with_mask = TruthObject(1, 5, BOX, box_rle(BOX, (100, 100)), 400.0, is_crowd=False)
    found = [Detection(1, 5, 0.9, BOX, box_rle(BOX, (100, 100)))]

    boxes_only = score_detections(_truth(), found, split="test", limits=Limits(), masks=True)
    masks = score_detections(_truth(objects=[with_mask]), found, split="test", limits=Limits(), masks=True)

    assert "segm_AP" not in boxes_only.metrics
    assert masks.metrics["segm_AP"] == pytest.approx(1.0)
    assert masks.per_class[0].segm_AP50 == pytest.approx(1.0)


def test_pictures_are_spread_over_the_images_with_objects() -> None:
    truth = _truth(
        sizes_hw=dict.fromkeys(range(20), (10, 10)),
        objects=[TruthObject(number, 5, BOX, None, 1.0, is_crowd=False) for number in range(10, 20)],
    )

    assert (10, 12, 15, 17) == choose_pictures(truth, 4)
    assert (*range(10, 20), 0, 1) == choose_pictures(truth, 12)
    assert () == choose_pictures(truth, 0)


def test_a_record_without_pictures_keeps_its_scores() -> None:
    scores = score_detections(
        _truth(), [Detection(1, 5, 0.9, BOX)], split="test", limits=Limits(), masks=False, pictures=1
    )

    assert 1 == len(scores.pictures[0].detections)
    assert () == scores.without_pictures().pictures
    assert None not in scores.finite_metrics().values()
    with pytest.raises(KeyError):
        scores.value("segm_AP")
