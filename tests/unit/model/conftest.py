"""Small models and batches for the tests of the model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import Sam3Model

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.preset_sizes import preset_resolution
from sam3ft_trainer.model.presets import build_preset, preset_config
from sam3ft_trainer.model.text import Tokenizer, byte_tokenizer
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def sam3() -> Sam3Model:
    """A micro model with random weights; its box head does not start at zero, so that boxes differ."""
    model = build_preset(preset_config("tiny-micro"), seed=1)
    with torch.no_grad():
        model.detr_decoder.box_head.layer3.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def no_dropout() -> ModelConfig:
    return ModelConfig(dropout=0.0, attention_dropout=0.0, drop_path=0.0)


@pytest.fixture
def inputs() -> Inputs:
    """Two images, three phrases, four pairs: pixels, ids, mask, image and phrase of each pair."""
    return _make_inputs("tiny-micro")


@pytest.fixture
def make_inputs() -> Callable[[str], Inputs]:
    return _make_inputs


def _make_inputs(preset: str) -> Inputs:
    side = preset_resolution(preset)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(5))
    ids, mask, _ = Tokenizer(byte_tokenizer()).encode(["red cell", "platelet", "a long phrase of words"])
    return pixels, ids, mask, torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 1, 1])


@pytest.fixture
def predict() -> Callable[..., Predictions]:
    def call(model: TrainingModel, inputs: Inputs, *, o2m: bool = True, masks: bool = True) -> Predictions:
        return model(*inputs, o2m=o2m, masks=masks)

    return call


@pytest.fixture
def outputs_of() -> Callable[[Predictions], dict[str, Tensor]]:
    def named(predictions: Predictions) -> dict[str, Tensor]:
        values = {name: getattr(predictions, name) for name in predictions.__slots__}
        return {name: value for name, value in values.items() if value is not None}

    return named


@pytest.fixture
def weighted_sum(outputs_of: Callable[[Predictions], dict[str, Tensor]]) -> Callable[[Predictions], Tensor]:
    """A scalar that depends on every entry of every output, each with its own weight."""

    def total(predictions: Predictions) -> Tensor:
        generator = torch.Generator().manual_seed(11)
        return sum(
            (value * torch.randn(value.shape, generator=generator)).sum() for value in outputs_of(predictions).values()
        )

    return total
