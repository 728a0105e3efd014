"""Averages of weights: the formula, exact resume, and weights that come back bit by bit."""

import copy
from concurrent.futures import Future

import pytest
import torch
from torch import nn

from sam3ft_trainer.run.ema import Ema, ramped_decay


def make_model(value: float = 0.0) -> nn.Linear:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def train(model: nn.Module, ema: Ema, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        ema.update(model)


def test_the_average_moves_towards_the_weights_by_one_minus_the_decay() -> None:
    model = make_model(1.0)
    ema = Ema(model, 0.05)  # below the ramp
    with torch.no_grad():
        model.weight.fill_(3.0)

    ema.update(model)

    assert ema.tensors()["weight"].unique().tolist() == pytest.approx([0.05 * 1.0 + 0.95 * 3.0])
    assert 1.0 == ema.tensors()["bias"].unique().item()


def test_the_decay_rises_to_its_bound_so_that_short_runs_forget_their_start() -> None:
    assert [0.1, 2 / 11, 0.5] == [ramped_decay(0.999, n) for n in (0, 1, 8)]
    assert 0.999 == ramped_decay(0.999, 100_000)


def test_a_resumed_average_goes_on_bit_by_bit() -> None:
    model = make_model()
    ema = Ema(model, 0.99)
    train(model, ema, 7, seed=1)
    saved = {name: tensor.clone() for name, tensor in ema.tensors().items()}
    resumed_model = copy.deepcopy(model)

    train(model, ema, 5, seed=2)
    resumed = Ema(resumed_model, 0.99)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(saved[name])
    train(resumed_model, resumed, 5, seed=2)

    assert ema.tensors().keys() == resumed.tensors().keys()
    assert all(torch.equal(value, resumed.tensors()[name]) for name, value in ema.tensors().items())
    assert 12 == resumed.tensors()["num_updates"].item()


def test_a_resume_that_loses_the_count_would_be_noticed() -> None:
    model = make_model()
    ema = Ema(model, 0.99)
    train(model, ema, 7, seed=1)
    forgetful = Ema(copy.deepcopy(model), 0.99)
    forgetful.tensors()["weight"].copy_(ema.tensors()["weight"])

    train(copy.deepcopy(model), forgetful, 1, seed=2)
    train(model, ema, 1, seed=2)

    assert not torch.equal(ema.tensors()["weight"], forgetful.tensors()["weight"])


def test_frozen_parameters_are_not_averaged() -> None:
    model = make_model()
    model.bias.requires_grad_(requires_grad=False)

    assert {"weight", "num_updates"} == set(Ema(model, 0.9).tensors())


def test_swapped_weights_are_the_averages_and_come_back_bit_by_bit() -> None:
    model = make_model()
    ema = Ema(model, 0.9)
    train(model, ema, 3, seed=0)
    before = copy.deepcopy(model.state_dict())

    inside: list[torch.Tensor] = []

    def score() -> None:
        with ema.swapped(model):
            inside.append(model.weight.detach().clone())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score()

    assert torch.equal(ema.tensors()["weight"], inside[0])
    assert not torch.equal(before["weight"], inside[0])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_averages_do_not_share_memory_with_the_weights() -> None:
    model = make_model(1.0)
    ema = Ema(model, 0.9)

    with torch.no_grad():
        model.weight.zero_()

    assert 1.0 == ema.tensors()["weight"].unique().item()


def test_a_failure_of_the_averaging_thread_reaches_the_caller() -> None:
    ema = Ema(make_model(), 0.9)
    failed: Future[None] = Future()
    failed.set_exception(MemoryError("host"))
    ema._pending = failed

    with pytest.raises(MemoryError, match="host"):
        ema.tensors()
