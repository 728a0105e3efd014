"""Dropout, attention dropout and drop path: at the right rate, in the right places, off in evaluation."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam3Model

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model import attention, vision
from sam3ft_trainer.model.attention import attend, feed_forward, residual
from sam3ft_trainer.model.regularization import Regularization, branch_scales
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions


def within(share: float, rate: float, draws: int) -> bool:
    """Whether a share of `draws` is within five standard deviations of `rate`."""
    return abs(share - rate) < 5 * math.sqrt(rate * (1 - rate) / draws)


def test_drop_path_zeroes_the_branches_of_samples_at_its_rate_and_keeps_the_mean():
    torch.manual_seed(0)
    drawn = branch_scales(torch.ones(4000, 3, 2), 0.25)

    for scale in drawn:
        assert (4000, 1, 1) == tuple(scale.shape)
        assert within(float((scale == 0).float().mean()), 0.25, 4000)
        assert [0.0, pytest.approx(1 / 0.75)] == scale.unique().tolist()
    assert not torch.equal(*drawn)


def test_a_rate_of_zero_draws_nothing_and_keeps_every_branch():
    before = torch.get_rng_state()

    assert all(bool((scale == 1).all()) for scale in branch_scales(torch.ones(3, 2), 0.0))
    assert torch.equal(before, torch.get_rng_state())


def test_the_rate_of_drop_path_grows_linearly_from_zero_over_the_blocks():
    assert [0.0, 0.05, 0.1] == Regularization(drop_path=0.1).block_rates(3)
    assert [0.0] == Regularization(drop_path=0.1).block_rates(1)


def test_attention_weights_are_dropped_at_their_rate(sam3: Sam3Model):
    torch.manual_seed(0)
    layer = sam3.detr_encoder.layers[0].self_attn
    with torch.no_grad():
        for projection in (layer.q_proj, layer.k_proj):
            projection.weight.zero_()  # uniform attention over 50 keys
        layer.v_proj.weight.zero_()
        layer.v_proj.bias.fill_(1.0)
        layer.o_proj.weight.copy_(torch.eye(32))
    x = torch.randn(64, 50, 32)

    output = attend(layer, x, x, x, mask=None, dropout=0.2)

    # With all values 1 the output is the sum of what is left of the weights: (number kept) / 50 / 0.8.
    kept = output[..., 0] * 0.8 * 50
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-3)
    assert within(1 - float(kept.detach().mean()) / 50, 0.2, 64 * 50 * 50)


def test_dropout_inside_the_feed_forward_and_on_the_branch_has_its_rate(sam3: Sam3Model):
    torch.manual_seed(0)
    mlp = sam3.detr_encoder.layers[0].mlp
    with torch.no_grad():
        mlp.fc1.weight.zero_()
        mlp.fc1.bias.fill_(1.0)
        mlp.fc2.weight.zero_()
        mlp.fc2.weight[:, 0] = 1.0
        mlp.fc2.bias.zero_()
    x = torch.zeros(4000, 32)

    inner = feed_forward(mlp, x, 0.1)[:, 0]
    outer = residual(x, torch.ones_like(x), 0.1)

    assert within(float((inner == 0).float().mean()), 0.1, 4000)
    assert within(float((outer == 0).float().mean()), 0.1, outer.numel())


def test_evaluation_draws_nothing_and_training_does(
    sam3: Sam3Model,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    model = TrainingModel(sam3, ModelConfig()).eval()
    state = torch.get_rng_state()

    first, second = (outputs_of(predict(model, inputs)) for _ in range(2))

    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    model.train()
    third, fourth = (outputs_of(predict(model, inputs)) for _ in range(2))
    assert not any(torch.equal(third[name], fourth[name]) for name in third)


@pytest.mark.parametrize("only", ["dropout", "attention_dropout", "drop_path"])
def test_each_rate_acts_alone_and_leaves_the_mean_output_near(
    sam3: Sam3Model, no_dropout: ModelConfig, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions], only: str
):
    expected = predict(TrainingModel(sam3, no_dropout).train(), inputs, masks=False).logits_LBQ
    model = TrainingModel(sam3, no_dropout.model_copy(update={only: 0.1})).train()
    torch.manual_seed(3)

    with torch.no_grad():
        draws = torch.stack([predict(model, inputs, masks=False).logits_LBQ for _ in range(40)])

    spread = draws.std(0).mean()
    assert spread > 1e-4
    assert (draws.mean(0) - expected).abs().mean() < spread


def test_the_same_seed_gives_the_same_draws(
    sam3: Sam3Model,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    model = TrainingModel(sam3, ModelConfig()).train()
    found = []
    for _ in range(2):
        torch.manual_seed(9)
        found.append(outputs_of(predict(model, inputs)))

    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_upstream_s_places_are_dropped_out_and_no_others(
    sam3: Sam3Model, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions], monkeypatch: pytest.MonkeyPatch
):
    """Counts draws: residual and inner dropout of every layer, attention of the DETR parts, drop path from block 1."""
    drawn: dict[str, list[float]] = {"dropout": [], "attention": [], "path": []}
    plain_dropout, plain_attention = F.dropout, attention.F.scaled_dot_product_attention

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - torch's
        drawn["dropout"] += [p] if training and p else []
        return plain_dropout(x, p, training, inplace)

    def sdpa(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
        drawn["attention"] += [dropout_p] if dropout_p else []
        return plain_attention(*args, dropout_p=dropout_p, **kwargs)

    def path(x: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        drawn["path"] += [rate] * 2 if rate else []
        return branch_scales(x, rate)

    monkeypatch.setattr(F, "dropout", dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", sdpa)
    monkeypatch.setattr(vision, "branch_scales", path)
    model = TrainingModel(sam3, ModelConfig(dropout=0.11, attention_dropout=0.12, drop_path=0.13)).train()

    predict(model, inputs)

    # geometry 1 layer x 4, encoder 2 x 4, decoder 2 x 5, prompt MLP 1; attention 1 x 2, 2 x 2, 2 x 3; 2 ViT blocks.
    assert {"dropout": [0.11] * 23, "attention": [0.12] * 12, "path": [0.13] * 2} == drawn


def test_attention_in_pieces_equals_attention_at_once(sam3: Sam3Model, monkeypatch: pytest.MonkeyPatch):
    layer = sam3.detr_decoder.layers[0].vision_cross_attn
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(3, 7, 32, generator=generator, requires_grad=True) for _ in range(2)]
    bias = torch.randn(3, 2, 7, 7, generator=generator, requires_grad=True)

    def run() -> tuple[Tensor, ...]:
        for tensor in (*tensors, bias):
            tensor.grad = None
        output = attend(layer, tensors[0], tensors[1], tensors[1], mask=bias, dropout=0.0)
        output.square().sum().backward()
        return output.detach(), *(tensor.grad.clone() for tensor in (*tensors, bias))

    expected = run()
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", 30)
    actual = run()

    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_attention_in_pieces_drops_out_at_its_rate_and_repeats_its_draw_in_backward(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", 5000)
    query, key = torch.zeros(2, 2, 200, 4), torch.zeros(2, 2, 50, 4)
    value = torch.ones(2, 2, 50, 4, requires_grad=True)

    output = attention.scaled_dot_product(query, key, value, mask=None, dropout=0.2)
    output.sum().backward()

    share = float(output[..., 0].detach().mean()) * 0.8
    assert within(1 - share, 0.2, 2 * 2 * 200 * 50)
    # The gradient sums the kept weights by key: the same total only if backward saw the same draw.
    assert value.grad is not None
    torch.testing.assert_close(value.grad.sum(), output.sum().detach(), rtol=1e-5, atol=0)
