"""Activation checkpointing: the same bits, with dropout or without, and less held between forward and backward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Sam3Model

from sam3ft_api.training import ModelConfig, Part
from sam3ft_trainer.model.checkpointing import PARTS, Checkpointing
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions


def run(
    sam3: Sam3Model,
    config: Any,
    inputs: tuple[Tensor, ...],
    weighted_sum: Callable[[Predictions], Tensor],
    *,
    parts: tuple[Part, ...],
    masks: bool = True,
):
    """Return loss, gradients, and the bytes that autograd saved for backward."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    sam3.zero_grad()
    model = TrainingModel(sam3, config, checkpointed=parts).train()
    torch.manual_seed(4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = weighted_sum(model(*inputs, o2m=True, masks=masks))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in sam3.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, sum(saved.values())


@pytest.mark.parametrize("config", [ModelConfig(), ModelConfig(dropout=0.0, attention_dropout=0.0, drop_path=0.0)])
@pytest.mark.parametrize("parts", [*[(part,) for part in PARTS], PARTS])
def test_loss_and_gradients_are_bit_for_bit_those_of_the_plain_run(
    sam3: Sam3Model,
    inputs: tuple[Tensor, ...],
    weighted_sum: Callable[[Predictions], Tensor],
    config: Any,
    parts: tuple[Part, ...],
):
    loss, gradients, held = run(sam3, config, inputs, weighted_sum, parts=())

    again, same_gradients, less_held = run(sam3, config, inputs, weighted_sum, parts=parts)

    assert torch.equal(loss, again)
    assert set(gradients) == set(same_gradients)
    assert [] == [name for name in gradients if not torch.equal(gradients[name], same_gradients[name])]
    assert less_held < held


def test_dropout_differs_from_run_to_run_but_not_between_forward_and_backward(
    sam3: Sam3Model, inputs: tuple[Tensor, ...], weighted_sum: Callable[[Predictions], Tensor]
):
    model = TrainingModel(sam3, ModelConfig(), checkpointed=PARTS).train()

    losses = {float(weighted_sum(model(*inputs, o2m=True, masks=True)).detach()) for _ in range(3)}

    assert 3 == len(losses)


def test_nothing_is_checkpointed_without_gradients(
    sam3: Sam3Model, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sam3ft_trainer.model.checkpointing.checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    model = TrainingModel(sam3, ModelConfig(), checkpointed=PARTS).eval()

    with torch.no_grad():
        predict(model, inputs)


def test_only_the_named_parts_are_run_twice():
    calls = []
    checkpointing = Checkpointing(("encoder",))
    x = torch.ones(2, requires_grad=True)

    def double(part: Part, value: Tensor) -> Tensor:
        calls.append(part)
        return (value * 2).square()

    first = checkpointing.run("decoder", double, "decoder", x)
    second = checkpointing.run("encoder", double, "encoder", x)
    (first + second).sum().backward()

    assert ["decoder", "encoder", "encoder"] == calls
    assert torch.equal(torch.full((2,), 16.0), x.grad)


def test_profiles_show_the_parts(sam3: Sam3Model, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions]):
    model = TrainingModel(sam3, ModelConfig()).eval()

    with torch.profiler.profile() as profile, torch.no_grad():
        predict(model, inputs)

    assert {f"sam3ft.{part}" for part in PARTS} <= {event.key for event in profile.key_averages()}
