"""The schedule's corners; its values are compared with upstream's in tests/oracles."""

import math

import pytest

from sam3ft_trainer.run.schedule import learning_rate

UPSTREAM = {"warmup": 20, "timescale": 20, "cooldown": 20}


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (1, 4e-6), (10, 4e-5), (20, 8e-5), (21, 7.8072e-5), (40, 5.6569e-5), (100, 3.5777e-5), (500, 1.6e-5),
     (980, 1.1429e-5), (981, 1.0852e-5), (990, 5.6854e-6), (999, 5.6597e-7)],
)  # fmt: skip
def test_a_thousand_steps_follow_upstreams_curve(step: int, expected: float) -> None:
    assert expected == pytest.approx(learning_rate(8e-5, step, 1000, **UPSTREAM), rel=2e-4)


def test_a_run_as_long_as_its_warm_up_has_a_rate_at_every_step() -> None:
    rates = [learning_rate(1.0, step, 20, **UPSTREAM) for step in range(20)]

    assert all(math.isfinite(rate) and rate >= 0 for rate in rates)
    assert rates[10] == pytest.approx(0.5 * 0.5)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert learning_rate(0.3, 0, 100, warmup=0, timescale=20, cooldown=0) == 0.3


def test_without_cool_down_the_last_step_keeps_its_rate() -> None:
    last = learning_rate(1.0, 99, 100, warmup=0, timescale=20, cooldown=0)

    assert last == pytest.approx(1 / math.sqrt(119 / 20))


def test_past_the_end_the_rate_is_zero_and_never_negative() -> None:
    assert learning_rate(1.0, 130, 100, **UPSTREAM) == 0.0


def test_a_shorter_horizon_starts_the_cool_down_without_a_jump() -> None:
    before = learning_rate(1.0, 500, 10_000, **UPSTREAM)

    assert before == learning_rate(1.0, 500, 520, **UPSTREAM)
    assert learning_rate(1.0, 501, 520, **UPSTREAM) < before
