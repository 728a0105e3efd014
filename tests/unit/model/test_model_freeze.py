"""Freezing: by part, and what no gradient can reach, against the gradients themselves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Sam3Model

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import ModelConfig, Part, Task
from sam3ft_trainer.model.checkpointing import PARTS
from sam3ft_trainer.model.freeze import PART_PREFIXES, freeze_parts, gradient_free_names, part_of
from sam3ft_trainer.model.geometry import BOX_PROMPT_MODULES
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions


def gradients(
    sam3: Sam3Model,
    config: Any,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    weighted_sum: Callable[[Predictions], Tensor],
    *,
    task: Task,
):
    """Run forward and backward; return the gradient of every parameter, None where there is none."""
    model = TrainingModel(sam3, config).train()
    weighted_sum(predict(model, inputs, masks=task == "segmentation")).backward()
    return {name: parameter.grad for name, parameter in sam3.named_parameters()}


@pytest.mark.parametrize(
    ("task", "geometry_cls", "count"),
    [("detection", True, 51), ("detection", False, 93), ("segmentation", True, 9), ("segmentation", False, 51)],
)
def test_exactly_the_named_tensors_get_no_gradient(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    weighted_sum: Callable[[Predictions], Tensor],
    task: Task,
    *,
    geometry_cls: bool,
    count: int,
):
    config = no_dropout.model_copy(update={"geometry_cls": geometry_cls})
    found = gradients(sam3, config, inputs, predict, weighted_sum, task=task)

    named = gradient_free_names(found, task=task, geometry_cls=geometry_cls)

    assert {name for name, gradient in found.items() if gradient is None} == set(named)
    # The published counts hold for one geometry and one DETR layer more or less; the kinds of tensors are the same.
    per_kind = {name.split(".")[0] for name in named}
    assert ("geometry_encoder" in per_kind) == (not geometry_cls)
    assert count - 20 < len(named) < count + 20


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_box_prompt_tensors_get_zeros_and_stay_trained(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    weighted_sum: Callable[[Predictions], Tensor],
    task: Task,
):
    freeze_parts(sam3, (), task=task, geometry_cls=True)

    found = gradients(sam3, no_dropout, inputs, predict, weighted_sum, task=task)

    box_prompt = {name for name in found if name.split(".")[1] in BOX_PROMPT_MODULES}
    assert 9 == len(box_prompt)
    zeros = {name for name, gradient in found.items() if gradient is not None and not gradient.any()}
    # A lone token's attention weight is 1 whatever its query and key are.
    alone = {
        name for name in found if "geometry_encoder" in name and (".self_attn.q" in name or ".self_attn.k" in name)
    }
    assert box_prompt <= zeros <= box_prompt | alone
    assert all(dict(sam3.named_parameters())[name].requires_grad for name in box_prompt)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_gets_no_gradient_and_all_else_that_is_trained_does(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    weighted_sum: Callable[[Predictions], Tensor],
    part: Part,
    task: Task,
):
    report = freeze_parts(sam3, (part,), task=task, geometry_cls=True)

    found = gradients(sam3, no_dropout, inputs, predict, weighted_sum, task=task)

    trained = {name for name, parameter in sam3.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, gradient in found.items() if gradient is not None}
    assert not [name for name in trained if part_of(name) == part]
    assert 0 == report.trained_by_part[part]


def test_every_parameter_belongs_to_one_part(sam3: Sam3Model):
    names = [name for name, _ in sam3.named_parameters()]

    assert all(1 == sum(name.startswith(prefixes) for prefixes in PART_PREFIXES.values()) for name in names)
    assert set(PARTS) == {part_of(name) for name in names}
    with pytest.raises(ValueError, match="is no parameter of Sam3Model"):
        part_of("tracker_model.weight")


def test_the_report_counts_what_is_trained(sam3: Sam3Model):
    report = freeze_parts(sam3, ("text", "vision"), task="segmentation", geometry_cls=True)

    trained = sum(p.numel() for p in sam3.parameters() if p.requires_grad)
    assert (trained, sam3.num_parameters()) == (report.num_trained, report.num_total)
    assert trained == sum(report.trained_by_part.values())
    assert "frozen: text, vision, and 8 tensors without a gradient in this mode" in report.summary()


def test_freezing_again_starts_over(sam3: Sam3Model):
    freeze_parts(sam3, ("decoder",), task="detection", geometry_cls=True)
    freeze_parts(sam3, (), task="segmentation", geometry_cls=True)

    assert sam3.detr_decoder.query_embed.weight.requires_grad
    assert sam3.mask_decoder.semantic_projection.weight.requires_grad


def test_nothing_left_to_train_is_refused(sam3: Sam3Model):
    others = tuple(part for part in PARTS if part != "mask")

    freeze_parts(sam3, others, task="segmentation", geometry_cls=True)
    with pytest.raises(InvalidConfig, match="leaves nothing to train in detection; take one of vision, text"):
        freeze_parts(sam3, others, task="detection", geometry_cls=True)


def test_frozen_leading_parts_build_no_graph(sam3: Sam3Model, no_dropout: ModelConfig, inputs: tuple[Tensor, ...]):
    freeze_parts(sam3, ("vision", "text"), task="detection", geometry_cls=True)
    model = TrainingModel(sam3, no_dropout).train()

    text = model.encode_text(inputs[1], inputs[2])
    images = model.encode_images(inputs[0], masks=False)

    assert not text.features_TKd.requires_grad
    assert images.levels[0].requires_grad
    assert torch.is_grad_enabled()
