"""Evaluation of a real tiny model: one process, two shares, chunks of pairs, unreadable images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Sam3Config, Sam3Model

from sam3ft_api.training import EvaluationConfig, ModelConfig
from sam3ft_trainer.evaluate.postprocess import Limits
from sam3ft_trainer.evaluate.split import EvaluationPlan, PhraseRows, detect, evaluate_split
from sam3ft_trainer.evaluate.truth import Truth, TruthObject
from sam3ft_trainer.model.training import EncodedText, TrainingModel
from sam3ft_trainer.run.group import Solo
from sam3ft_trainer.tensors import Batch, Targets

ORACLES = Path(__file__).parents[2] / "assets" / "oracles"
CATEGORIES = {1: "red cell", 2: "white cell", 3: "platelet"}
SIDE = 112


@pytest.fixture(scope="module")
def model() -> TrainingModel:
    config = Sam3Config.from_dict(json.loads((ORACLES / "model_seg_config.json").read_text()))
    sam3 = Sam3Model(config)
    sam3.load_state_dict(load_file(ORACLES / "model_seg_weights.safetensors"))
    return TrainingModel(sam3, ModelConfig())


class CountingText:
    """Encodes phrases as token ids made of their letters, and remembers what it was asked."""

    def __init__(self, model: TrainingModel) -> None:
        self.model = model
        self.asked: list[str] = []

    def __call__(self, phrases: Sequence[str], /) -> EncodedText:
        self.asked += phrases
        ids = torch.zeros(len(phrases), 32, dtype=torch.int64)
        for row, phrase in enumerate(phrases):
            ids[row, : len(phrase)] = torch.tensor([3 + ord(letter) % 40 for letter in phrase])
        return self.model.encode_text(ids, (ids > 0).long())


def _batch(image_ids: Sequence[int], *, unreadable: Sequence[int] = ()) -> Batch:
    pixels = torch.stack(
        [
            torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(image))
            for image in image_ids
        ]
    )
    pairs = [
        (row, phrase)
        for row, image in enumerate(image_ids)
        if image not in unreadable
        for phrase in range(len(CATEGORIES))
    ]
    return Batch(
        pixels_I3SS=pixels,
        phrases=tuple(CATEGORIES.values()),
        img_idx_B=torch.tensor([row for row, _ in pairs], dtype=torch.int64),
        txt_idx_B=torch.tensor([phrase for _, phrase in pairs], dtype=torch.int64),
        targets=Targets(torch.zeros(0, 4), torch.zeros(len(pairs), dtype=torch.int64)),
        image_ids=tuple(image_ids),
        category_ids=tuple(list(CATEGORIES)[phrase] for _, phrase in pairs),
    )


def _truth(images: Sequence[int]) -> Truth:
    objects = [TruthObject(image, 1, (10.0, 10.0, 40.0, 30.0), None, 1200.0, False) for image in images]
    return Truth(dict.fromkeys(images, (90, 130)), CATEGORIES, objects, frozenset(CATEGORIES))


def _plan(**changes: object) -> EvaluationPlan:
    return EvaluationPlan(split="valid", device=torch.device("cpu"), **changes)  # type: ignore[arg-type]


class Peer(Solo):
    """One of two ranks, the other one played back; values pass through JSON as on the wire."""

    def __init__(self, rank: int, *, others: Sequence[Any] = (), answer: Any = None) -> None:
        self.rank, self.others, self.answer = rank, others, answer
        self.sent: Any = None

    def gather(self, value: Any) -> list[Any] | None:
        self.sent = json.loads(json.dumps(value))
        return [self.sent, *self.others] if self.rank == 0 else None

    def broadcast(self, value: Any) -> Any:
        return self.answer if self.rank else json.loads(json.dumps(value))


CONFIG = EvaluationConfig(max_dets=20, score_threshold=0.2)


def test_scores_carry_every_metric_and_survive_json(model: TrainingModel) -> None:
    seen: list[int] = []

    scores = evaluate_split(
        model,
        [_batch([1, 2]), _batch([3])],
        _truth([1, 2, 3]),
        CONFIG,
        text=CountingText(model),
        plan=_plan(pictures=2, on_image=seen.append),
    )

    assert [2, 3] == seen
    assert ("valid", 3, 0) == (scores.split, scores.images, scores.unreadable_images)
    assert {"bbox_AP", "bbox_AP50", "bbox_AR", "cgF1", "pmF1", "IL_MCC", "fp_absent_rate"} <= set(scores.metrics)
    assert ["red cell", "white cell", "platelet"] == [row.name for row in scores.per_class]
    assert [(3, 3), (0, 0), (0, 0)] == [(row.images, row.objects) for row in scores.per_class]
    assert scores.per_class[1].bbox_AP is None
    assert [1, 2] == [picture.image_id for picture in scores.pictures]
    assert scores == type(scores).model_validate_json(scores.model_dump_json())


def test_each_phrase_is_encoded_once_for_the_whole_split(model: TrainingModel) -> None:
    text = CountingText(model)

    evaluate_split(model, [_batch([1]), _batch([2])], _truth([1, 2]), CONFIG, text=text, plan=_plan())

    assert list(CATEGORIES.values()) == text.asked


def test_shares_of_two_ranks_give_the_scores_of_one(model: TrainingModel) -> None:
    truth = _truth([1, 2, 3])
    alone = evaluate_split(
        model, [_batch([1]), _batch([2]), _batch([3])], truth, CONFIG, text=CountingText(model), plan=_plan(pictures=3)
    )
    second = Peer(rank=1, answer=alone.model_dump(mode="json"))
    # Rank 1 repeats image 1, as samplers do that pad shares to equal length.
    on_second = evaluate_split(
        model, [_batch([2]), _batch([1])], truth, CONFIG, text=CountingText(model), plan=_plan(group=second, pictures=3)
    )
    first = Peer(rank=0, others=[second.sent])
    together = evaluate_split(
        model, [_batch([1]), _batch([3])], truth, CONFIG, text=CountingText(model), plan=_plan(group=first, pictures=3)
    )

    assert alone == on_second
    assert alone.model_copy(update={"seconds": 0.0}) == together.model_copy(update={"seconds": 0.0})


def test_pairs_decoded_one_by_one_give_the_same_detections(model: TrainingModel) -> None:
    truth = _truth([1, 2])

    def run(pairs_at_once: int) -> object:
        scores = evaluate_split(
            model,
            [_batch([1, 2])],
            truth,
            CONFIG,
            text=CountingText(model),
            plan=_plan(pairs_at_once=pairs_at_once, masks=True, pictures=2),
        )
        return [
            (found.category_id, found.box_xywh, found.rle)
            for picture in scores.pictures
            for found in picture.detections
        ]

    assert run(6) == run(1)


def test_unreadable_images_are_counted_and_not_scored(model: TrainingModel) -> None:
    scores = evaluate_split(
        model,
        [_batch([1, 2], unreadable=[2]), _batch([3], unreadable=[3])],
        _truth([1, 2, 3]),
        CONFIG,
        text=CountingText(model),
        plan=_plan(),
    )

    assert (1, 2) == (scores.images, scores.unreadable_images)
    assert 1 == scores.per_class[0].objects


def test_the_model_keeps_its_mode_even_when_evaluation_fails(model: TrainingModel) -> None:
    model.train()

    with pytest.raises(KeyError):
        evaluate_split(model, [_batch([9])], _truth([1]), CONFIG, text=CountingText(model), plan=_plan())

    assert model.training
    model.eval()


def test_an_empty_split_gives_undefined_scores(model: TrainingModel) -> None:
    scores = evaluate_split(model, [], _truth([]), CONFIG, text=CountingText(model), plan=_plan())

    assert {None} == set(scores.metrics.values())
    assert 0.0 == scores.value("bbox_AP")


@pytest.mark.parametrize("masks", [False, True])
def test_detections_equal_the_models_own_outputs_in_original_pixels(model: TrainingModel, masks: bool) -> None:  # noqa: FBT001 - a parameter of the test
    batch, truth = _batch([5]), _truth([5])
    text = CountingText(model)
    plan = _plan(masks=masks)
    model.eval()

    found = detect(model, batch, truth.sizes_hw, Limits(max_dets=1), phrases=PhraseRows(text), plan=plan)
    with torch.inference_mode():
        encoded = text(batch.phrases)
        images = model.encode_images((batch.pixels_I3SS / 255.0 - 0.5) / 0.5, masks=masks)
        raw = model.predict(images, encoded, batch.img_idx_B, batch.txt_idx_B, o2m=False, masks=masks)
    scores = raw.logits_LBQ[-1].sigmoid() * raw.presence_LB[-1].sigmoid()[:, None]
    best = [item for item in found if item.for_ap]

    assert 1 == len(best)
    assert scores.max().item() == pytest.approx(best[0].score, abs=1e-5)
    cx, cy, w, h = raw.boxes_LBQ4[-1].reshape(-1, 4)[int(scores.argmax())].tolist()
    assert [(cx - w / 2) * 130, (cy - h / 2) * 90, w * 130, h * 90] == pytest.approx(list(best[0].box_xywh), abs=1e-3)
    assert (best[0].rle is not None) == masks
