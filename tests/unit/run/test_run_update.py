"""Clipping and the finite flag."""

import pytest
import torch
from torch import Tensor

from sam3ft_trainer.run.update import clip_and_check


def with_gradients(*values: list[float]) -> list[Tensor]:
    parameters = [torch.zeros(len(value), requires_grad=True) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters


def test_gradients_above_the_bound_are_scaled_together() -> None:
    parameters = with_gradients([3.0], [0.0, 4.0])

    norm, finite = clip_and_check(parameters, 0.5)

    assert norm.item() == pytest.approx(5.0)
    assert bool(finite)
    assert [0.3] == pytest.approx(parameters[0].grad.tolist(), rel=1e-5)
    assert [0.0, 0.4] == pytest.approx(parameters[1].grad.tolist(), rel=1e-5)


@pytest.mark.parametrize("bound", [None, 10.0])
def test_gradients_below_the_bound_stay(bound: float | None) -> None:
    parameters = with_gradients([3.0], [0.0, 4.0])

    norm, _ = clip_and_check(parameters, bound)

    assert norm.item() == pytest.approx(5.0)
    assert [[3.0], [0.0, 4.0]] == [parameter.grad.tolist() for parameter in parameters]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("bound", [None, 0.1])
def test_one_gradient_that_is_not_finite_is_noticed(poison: float, bound: float | None) -> None:
    _, finite = clip_and_check(with_gradients([1.0, 2.0], [poison]), bound)

    assert not bool(finite)


def test_parameters_without_a_gradient_are_passed_over() -> None:
    parameters = [torch.zeros(2, requires_grad=True), *with_gradients([2.0])]

    norm, finite = clip_and_check(iter(parameters), 1.0)

    assert 2.0 == norm.item()
    assert bool(finite)
    assert parameters[0].grad is None


def test_without_any_gradient_the_norm_is_zero() -> None:
    norm, finite = clip_and_check([torch.zeros(2, requires_grad=True)], 0.1)

    assert 0.0 == norm.item()
    assert bool(finite)
