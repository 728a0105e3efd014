"""How long steps take, and what a rank did meanwhile; with a clock that the test moves."""

import pytest
import torch

from sam3ft_api import limits
from sam3ft_api.worker import STEP_BOUNDS_S, StepFigures
from sam3ft_trainer.run.meter import Meter, resident_bytes, split_terms
from sam3ft_trainer.run.pace import GPU_PEAKS, gpu_peak

CPU = torch.device("cpu")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def figures(meter: Meter, *shares: dict[str, object]) -> StepFigures:
    told = meter.figures(shares, grad_norm=1.0, losses={"loss_ce": 2.0}, scores={})
    return StepFigures.model_validate(told)


def share(rank: int, *, data_s: float = 0.0, steps: int = 1) -> dict[str, object]:
    return {"rank": rank, "data_s": data_s, "steps": steps}


def test_steps_are_counted_by_duration_and_pauses_between_them_are_not() -> None:
    clock = Clock()
    meter = Meter(device=CPU, clock=clock)
    meter.begin()
    for seconds in (0.05, 0.06, 0.06, 400.0):
        clock.now_s += seconds
        meter.end_step()
    clock.now_s += 1000.0  # an evaluation
    meter.begin()
    clock.now_s += 0.06
    meter.end_step()

    told = figures(meter, share(0)).steps

    assert told is not None
    counted = dict(zip((*STEP_BOUNDS_S, "longer"), told.counts, strict=True))
    assert {0.05: 1, 0.075: 3, "longer": 1} == {bound: count for bound, count in counted.items() if count}
    assert told.total_s == pytest.approx(400.23)


def test_a_share_is_seconds_a_step_since_the_last_one() -> None:
    meter = Meter(device=CPU, clock=Clock())
    meter.begin()
    for _ in range(4):
        meter.ask_step(8)
    spans = {"data": 2.0, "agree": 1.0, "forward": 4.0, "backward": 8.0, "optimizer": 4.0, "log": 9.0}

    told = meter.share(spans, rank=3)

    assert (3, 4) == (told["rank"], told["steps"])
    assert (0.5, 0.25, 1.0) == (told["data_s"], told["peers_s"], told["forward_s"])
    assert 1e6 < told["resident_bytes"] < 1e12
    assert 1 == meter.share({}, rank=3)["steps"]


def test_training_waits_for_the_rank_that_waits_longest() -> None:
    meter = Meter(device=CPU, clock=Clock())

    assert 6.0 == figures(meter, share(0, data_s=0.5, steps=4), share(1, data_s=1.5, steps=4)).data_wait_s
    assert 8.0 == figures(meter, share(0, data_s=0.5, steps=4), share(1, data_s=0.25, steps=4)).data_wait_s


def test_the_share_of_the_peak_is_that_of_all_devices_during_steps() -> None:
    clock = Clock()
    meter, unknown = Meter(device=CPU, ideal_image_s=0.1, clock=clock), Meter(device=CPU, clock=clock)
    assert figures(meter, share(0)).flops_share is None  # no step yet
    for it in (meter, unknown):
        it.begin()
        it.ask_step(10)
    clock.now_s += 1.0
    for it in (meter, unknown):
        it.end_step()
    clock.now_s += 1000.0  # an evaluation
    meter.begin()

    assert figures(meter, share(0), share(1)).flops_share == pytest.approx(0.5)
    assert figures(unknown, share(0), share(1)).flops_share is None


def test_the_times_of_all_steps_are_told_between_intervals_too() -> None:
    clock = Clock()
    meter = Meter(device=CPU, clock=clock)
    assert StepFigures.model_validate(meter.newest()).grad_norm is None
    meter.begin()
    figures(meter, share(0))
    clock.now_s += 200.0
    meter.end_step()

    told = StepFigures.model_validate(meter.newest())
    assert (1.0, 200.0) == (told.grad_norm, told.steps.total_s if told.steps else None)


def test_more_ranks_than_are_shown_lose_their_figures_and_nothing_else() -> None:
    shares = [share(rank, data_s=float(rank)) for rank in reversed(range(limits.MAX_RANKS_SHOWN + 2))]

    told = figures(Meter(device=CPU, clock=Clock()), *shares)

    assert tuple(range(limits.MAX_RANKS_SHOWN)) == tuple(rank.rank for rank in told.ranks)
    assert float(limits.MAX_RANKS_SHOWN + 1) == told.data_wait_s


def test_the_newest_commit_is_kept_until_the_next() -> None:
    meter = Meter(device=CPU, clock=Clock())
    assert figures(meter, share(0)).save_s is None

    meter.saved({"seq": 1, "bytes": 10, "seconds": 2.5})

    told = figures(meter, share(0)), figures(meter, share(0))
    assert [(2.5, 10)] * 2 == [(it.save_s, it.save_bytes) for it in told]


def test_terms_of_the_last_layer_are_losses_or_scores() -> None:
    terms = dict.fromkeys(("loss_ce", "loss_ce_o2m", "loss_ce_aux_3", "ce_f1", "ce_f1_o2m", "presence_dec_acc"), 0.5)

    losses, scores = split_terms(terms, {"loss_ce", "loss_bbox"})

    assert {"loss_ce", "loss_ce_o2m"} == losses.keys()
    assert {"ce_f1", "presence_dec_acc"} == scores.keys()


def test_this_process_has_memory() -> None:
    assert 1e6 < (resident_bytes() or 0) < 1e12


def test_peaks_are_known_by_name_and_precision() -> None:
    peaks = dict(GPU_PEAKS)

    assert peaks["H100"] == gpu_peak("NVIDIA H100 80GB HBM3", "bf16")
    assert peaks["H100"] / 15 == pytest.approx(gpu_peak("NVIDIA H100 80GB HBM3", "fp32"))
    assert gpu_peak("Some Device", "bf16") is None
    assert gpu_peak("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16") is None
