import dataclasses
import math
from typing import Any

import pytest

from sam3ft_trainer.run.advice import PlanFacts, advise
from sam3ft_trainer.run.pace import GPU_OVERHEAD_S, GPU_SHARE, cpu_pace, gpu_pace

SOUND = PlanFacts(
    updates=1000,
    steps_per_epoch=50,
    ends_by="epochs",
    warmup=20,
    cooldown=20,
    batch=2,
    rate=8e-5,
    precision="bf16",
    device="cuda",
    device_has_bf16=True,
    processes=1,
    micro_batch=2,
    recomputed=(),
    wanted_micro_batch=None,
)


def found(**changes: Any) -> dict[str, str]:
    """Kinds and levels of the advice for a sound plan with these changes."""
    return {advice.kind: advice.level for advice in advise(dataclasses.replace(SOUND, **changes))}


def text_of(kind: str, **changes: Any) -> str:
    return next(advice.text for advice in advise(dataclasses.replace(SOUND, **changes)) if advice.kind == kind)


def test_a_sound_plan_is_only_told_the_rule_of_batch_and_rate():
    assert {"BatchAndRate": "note"} == found()


@pytest.mark.parametrize(("updates", "is_warned"), [(499, True), (500, False)])
def test_fewer_than_500_updates_are_warned_about(*, updates: int, is_warned: bool):
    assert is_warned == ("FewUpdates" in found(updates=updates))


def test_the_warning_about_few_updates_says_how_many_epochs_would_do():
    assert "10 epochs would make 500" in text_of("FewUpdates", updates=100)


@pytest.mark.parametrize(
    ("ends_by", "setting"), [("duration", "scratch.max_duration_s"), ("steps", "scratch.max_steps")]
)
def test_a_run_that_is_bounded_is_told_to_raise_its_bound(ends_by: str, setting: str):
    assert f"raise {setting}" in text_of("FewUpdates", updates=100, ends_by=ends_by)


@pytest.mark.parametrize(("cooldown", "is_warned"), [(80, False), (81, True)])
def test_warm_up_and_cool_down_may_take_a_tenth_together(*, cooldown: int, is_warned: bool):
    assert is_warned == ("LongRamps" in found(cooldown=cooldown))


@pytest.mark.parametrize(
    ("batch", "rate", "level"),
    [(2, 8e-5, "note"), (32, 8e-5, "warning"), (32, 3.2e-4, "note"), (2, 8e-4, "warning"), (4, 8e-5, "note")],
)
def test_the_rate_is_held_against_the_square_root_of_the_batch(batch: int, rate: float, level: str):
    advice = found(batch=batch, rate=rate, micro_batch=batch)

    assert level == advice["BatchAndRate"]


def test_the_rule_is_stated_with_its_number():
    assert "here 0.00032" in text_of("BatchAndRate", batch=32)


@pytest.mark.parametrize(
    ("precision", "device", "has_bf16", "expected"),
    [
        ("bf16", "cuda", False, "fp16"),
        ("bf16", "cpu", False, "fp32"),
        ("fp16", "cpu", True, "fp32"),
    ],
)
def test_emulated_arithmetic_is_warned_about_with_what_to_use(
    *, precision: str, device: str, has_bf16: bool, expected: str
):
    text = text_of("PrecisionIsEmulated", precision=precision, device=device, device_has_bf16=has_bf16)

    assert text.endswith(f"scratch.precision: {expected}")


def test_full_precision_on_a_gpu_is_noted():
    assert "note" == found(precision="fp32")["FullPrecision"]


def test_accumulation_and_recomputation_are_told():
    advice = found(batch=8, rate=1.6e-4, processes=2, micro_batch=3, recomputed=("vision",))

    assert {"BatchAndRate": "note", "GradientsAccumulate": "note", "PartsAreRecomputed": "note"} == advice


def test_a_micro_batch_beyond_the_share_is_told():
    assert "the 2 images of a process" in text_of("MicroBatchIsLarger", wanted_micro_batch=4)


def test_warnings_come_before_notes():
    levels = [advice.level for advice in advise(dataclasses.replace(SOUND, updates=10, recomputed=("mask",)))]

    assert ["warning", "warning", "note", "note"] == levels


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GB200", 2500e12),
    ],
)
def test_a_gpu_is_known_by_the_words_of_its_name(name: str, peak: float):
    assert math.isclose(peak * GPU_SHARE, gpu_pace(name, "bf16").flops_per_s)


def test_an_unknown_gpu_says_that_its_peak_is_assumed():
    assert "NVIDIA RTX A1000 is not in the table" in gpu_pace("NVIDIA RTX A1000", "bf16").basis


def test_fp32_has_a_fifteenth_of_the_rate():
    assert math.isclose(gpu_pace("NVIDIA H100", "bf16").flops_per_s / 15, gpu_pace("NVIDIA H100", "fp32").flops_per_s)


def test_a_pass_costs_its_flops_and_an_overhead():
    pace = gpu_pace("NVIDIA H100", "bf16")

    assert math.isclose(GPU_OVERHEAD_S + 2.0, pace.pass_s(2 * pace.flops_per_s))


def test_cpu_threads_add_up():
    assert math.isclose(4 * cpu_pace("fp32", threads=1).flops_per_s, cpu_pace("fp32", threads=4).flops_per_s)
