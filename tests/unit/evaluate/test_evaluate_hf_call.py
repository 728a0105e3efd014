"""Reading a real split, and the plain Hugging Face call scored on it beside the trainer's forward."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sam3ft_api.training import ModelConfig, TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.pipeline import EvalLoader
from sam3ft_trainer.evaluate.hf_call import score_hf_call
from sam3ft_trainer.evaluate.read import truth_of
from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.evaluate.split import EvaluationPlan, evaluate_split
from sam3ft_trainer.model.load import LoadedModel, load_model
from sam3ft_trainer.model.processor import build_processor
from sam3ft_trainer.model.training import EncodedText, TrainingModel

LPBF = Path(__file__).parents[2] / "assets" / "lpbf"
SIDE = 112


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "data": {"uri": str(LPBF)},
            "scratch": {"enable_segmentation": True, "resolution": SIDE, "precision": "fp32"},
            "evaluation": {"max_dets": 20},
        }
    )


@pytest.fixture(scope="module")
def dataset(config: TrainingConfig) -> CocoDataset:
    found = open_dataset(config, "test")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.set_num_threads(1)
    return load_model("preset:tiny-micro", ModelConfig(), resolution=SIDE, device="cpu", seed=3)


def _plan() -> EvaluationPlan:
    return EvaluationPlan(split="test", device=torch.device("cpu"), masks=True, pictures=2)


def _by_the_trainer(
    loaded: LoadedModel, dataset: CocoDataset, config: TrainingConfig, *, geometry_cls: bool
) -> SplitScores:
    model = TrainingModel(loaded.sam3, ModelConfig(geometry_cls=geometry_cls))

    def text(phrases: Sequence[str]) -> EncodedText:
        ids, mask, _ = loaded.tokenizer.encode(phrases)
        return model.encode_text(ids, mask)

    return evaluate_split(
        model, EvalLoader(dataset, config), truth_of(dataset, masks=True), config.evaluation, text=text, plan=_plan()
    )


def test_the_truth_of_a_real_split_is_complete(dataset: CocoDataset) -> None:
    truth = truth_of(dataset, masks=True)

    assert set(dataset.image_ids) == set(truth.sizes_hw)
    assert {(600, 600)} == set(truth.sizes_hw.values())
    assert sum(category.objects for category in dataset.report.categories) == len(truth.objects)
    assert all(item.rle is not None and item.rle["size"] == [600, 600] for item in truth.objects)
    assert truth.exhaustive == frozenset(truth.categories)
    assert truth_of(dataset, masks=False).objects[0] == truth.objects[0]._replace(rle=None)


def test_the_plain_call_finds_what_the_trainers_forward_finds_without_the_geometry_token(
    loaded: LoadedModel, dataset: CocoDataset, config: TrainingConfig
) -> None:
    trainer = _by_the_trainer(loaded, dataset, config, geometry_cls=False)
    processor = build_processor(loaded.tokenizer, SIDE)

    plain = score_hf_call(
        loaded.sam3, processor, dataset, truth_of(dataset, masks=True), config.evaluation, plan=_plan()
    )

    assert len(dataset) == plain.images == trainer.images
    assert set(trainer.metrics) == set(plain.metrics)
    for ours, theirs in zip(trainer.pictures, plain.pictures, strict=True):
        assert ours.image_id == theirs.image_id
        assert [item.score for item in theirs.detections] == pytest.approx(
            [item.score for item in ours.detections], abs=2e-3
        )
        best, other = ours.detections[0], theirs.detections[0]
        assert list(best.box_xywh) == pytest.approx(list(other.box_xywh), abs=1.0)
        assert other.rle is not None


def test_the_geometry_token_changes_what_is_found(
    loaded: LoadedModel, dataset: CocoDataset, config: TrainingConfig
) -> None:
    with_token = _by_the_trainer(loaded, dataset, config, geometry_cls=True)
    without = _by_the_trainer(loaded, dataset, config, geometry_cls=False)

    assert with_token.pictures != without.pictures


def test_an_image_that_cannot_be_read_is_left_out_by_the_plain_call(
    loaded: LoadedModel, dataset: CocoDataset, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = dataset.image_ids[0]
    read = CocoDataset.read_image
    monkeypatch.setattr(
        CocoDataset, "read_image", lambda self, image_id: b"no image" if image_id == damaged else read(self, image_id)
    )

    plain = score_hf_call(
        loaded.sam3,
        build_processor(loaded.tokenizer, SIDE),
        dataset,
        truth_of(dataset, masks=True),
        config.evaluation,
        plan=_plan(),
    )

    assert (len(dataset) - 1, 1) == (plain.images, plain.unreadable_images)
