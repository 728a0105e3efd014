import math

import pytest

from sam3ft_trainer.run.selection import Selection


def test_the_first_value_is_the_best() -> None:
    selection, is_best = Selection(metric="bbox_AP").observe(0.1, step=5, min_delta=0.0)

    assert is_best
    assert (selection.best_value, selection.best_step, selection.since_best) == (0.1, 5, 0)


def test_an_equal_value_is_not_better() -> None:
    first, _ = Selection(metric="bbox_AP").observe(0.1, step=5, min_delta=0.0)

    second, is_best = first.observe(0.1, step=6, min_delta=0.0)

    assert not is_best
    assert (second.best_step, second.since_best) == (5, 1)


def test_a_gain_within_min_delta_is_not_better() -> None:
    first, _ = Selection(metric="bbox_AP").observe(0.1, step=5, min_delta=0.01)

    _, is_best = first.observe(0.105, step=6, min_delta=0.01)

    assert not is_best


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_an_undefined_value_is_never_the_best(value: float | None) -> None:
    selection, is_best = Selection(metric="bbox_AP").observe(value, step=5, min_delta=0.0)

    assert not is_best
    assert selection.best_value is None


def test_patience_counts_evaluations_without_improvement() -> None:
    selection = Selection(metric="bbox_AP")
    for step, value in enumerate([0.3, 0.2, 0.1]):
        selection, _ = selection.observe(value, step=step, min_delta=0.0)

    assert selection.is_exhausted(2)
    assert not selection.is_exhausted(3)
    assert not selection.is_exhausted(None)
