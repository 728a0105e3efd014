"""The planner: bytes and FLOPs traced on shapes, against real runs and published figures."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sam3ft_api.training import ModelConfig, OptimConfig, Part, RuntimeConfig, ScratchConfig, TrainingConfig
from sam3ft_trainer.model import attention, cost, tracing
from sam3ft_trainer.model.checkpointing import PARTS
from sam3ft_trainer.model.cost import LADDER, MemoryPlan, Workload, plan_memory, trace_step
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.presets import build_preset, preset_config
from sam3ft_trainer.model.shape_memo import ShapeMemo
from sam3ft_trainer.model.tracing import Trace
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions

SMALL = Workload(images=2, phrases=3, pairs=4, objects=6)


def settings(
    *,
    segmentation: bool = False,
    precision: str = "fp32",
    freeze: tuple[Part, ...] = (),
    o2m: bool = True,
    rate: float = 0.1,
    ema: float | None = None,
    checkpointing: Any = "auto",
):
    return TrainingConfig(
        scratch=ScratchConfig(enable_segmentation=segmentation, precision=precision),
        model=ModelConfig(freeze=freeze, o2m=o2m, dropout=rate, attention_dropout=rate, drop_path=rate),
        optim=OptimConfig(ema_decay=ema),
        runtime=RuntimeConfig(activation_checkpointing=checkpointing),
    )


def trace(
    config: Any,
    *,
    preset: str = "tiny-nano",
    workload: Workload = SMALL,
    device_type: str = "cpu",
    checkpointed: tuple[Part, ...] = (),
):
    return trace_step(config, preset_config(preset), workload, device_type=device_type, checkpointed=checkpointed)


def real_peak(
    config: Any,
    preset: str,
    *,
    checkpointed: tuple[Part, ...],
    make_inputs: Callable[[str], tuple[Tensor, ...]],
    weighted_sum: Callable[[Predictions], Tensor],
):
    """The peak beyond the state of a real forward and backward on this CPU, every tensor counted."""
    sam3 = build_preset(preset_config(preset), seed=0)
    freeze_parts(sam3, (), task=config.task, geometry_cls=True)
    model = TrainingModel(sam3, config.model, checkpointed=checkpointed).train()
    for parameter in sam3.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    inputs = make_inputs(preset)
    seen = Trace()
    with seen:
        seen.ignore([*sam3.parameters(), *sam3.buffers()])
        seen.ignore(p.grad for p in sam3.parameters() if p.grad is not None)
        weighted_sum(model(*inputs, o2m=True, masks=config.task == "segmentation")).backward()
    return seen.peak


@pytest.mark.parametrize("checkpointed", [(), PARTS])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_traced_peak_is_that_of_a_real_run(
    make_inputs: Callable[[str], tuple[Tensor, ...]],
    weighted_sum: Callable[[Predictions], Tensor],
    rate: float,
    checkpointed: tuple[Part, ...],
):
    config = settings(rate=rate)
    expected = real_peak(
        config, "tiny-demo", checkpointed=checkpointed, make_inputs=make_inputs, weighted_sum=weighted_sum
    )

    plan = trace(config, preset="tiny-demo", checkpointed=checkpointed)

    assert pytest.approx(expected, rel=0.08) == plan.peak


def test_flops_are_those_that_torch_counts(
    no_dropout: ModelConfig,
    make_inputs: Callable[[str], tuple[Tensor, ...]],
    weighted_sum: Callable[[Predictions], Tensor],
):
    config = settings(segmentation=True, rate=0.0)
    sam3 = build_preset(preset_config("tiny-micro"), seed=0)
    freeze_parts(sam3, (), task="segmentation", geometry_cls=True)
    model = TrainingModel(sam3, no_dropout).train()
    with sdpa_kernel(SDPBackend.MATH):  # torch counts nothing for the CPU's fused attention
        with FlopCounterMode(display=False) as forward:
            total = weighted_sum(model(*make_inputs("tiny-micro"), o2m=True, masks=True))
        with FlopCounterMode(display=False) as backward:
            total.backward()

    plan = trace(config, preset="tiny-micro")

    assert pytest.approx(forward.get_total_flops(), rel=0.01) == sum(plan.flops.forward.values())
    assert pytest.approx(backward.get_total_flops(), rel=0.01) == plan.flops.backward
    assert 0 == plan.flops.recomputed


@pytest.mark.slow
def test_flops_of_the_real_size_are_the_published_ones():
    """GFLOP forward of each part for one phrase at 1008 px, counted on meta tensors when the model was published."""
    published = {
        "vision": 5399,
        "neck": 213,
        "text": 19.4,
        "geometry": 4.1,
        "encoder": 256,
        "decoder": 20.6,
        "mask": 143,
    }

    plan = trace(settings(segmentation=True, o2m=False), preset="sam3", workload=Workload.of(1, 1))

    found = {part: flops / 1e9 for part, flops in plan.flops.forward.items()}
    assert set(published) == set(found)
    assert pytest.approx(sum(published.values()), rel=0.005) == sum(found.values())
    for part, flops in published.items():
        assert pytest.approx(flops, rel=0.02, abs=0.5) == found[part]
    assert pytest.approx(18.16e12, rel=0.005) == plan.flops.total


@pytest.mark.slow
def test_a_further_phrase_costs_only_its_pair():
    one, four = (
        trace(settings(o2m=False), preset="sam3", workload=Workload.of(1, phrases)).flops.total for phrases in (1, 4)
    )

    assert pytest.approx(0.90e12, rel=0.02) == (four - one) / 3


def test_checkpointing_trades_memory_for_repeated_work_and_leaves_the_work_itself():
    plain = trace(settings(segmentation=True), preset="tiny-demo")
    spared = trace(settings(segmentation=True), preset="tiny-demo", checkpointed=PARTS)

    assert spared.peak < 0.7 * plain.peak
    assert sum(spared.activations.values()) < 0.5 * sum(plain.activations.values())
    assert plain.flops.total == spared.flops.total
    assert 0 == plain.flops.recomputed < spared.flops.recomputed < 1.05 * sum(plain.flops.forward.values())


def test_only_the_checkpointed_part_holds_less():
    plain = trace(settings()).activations
    spared = trace(settings(), checkpointed=("encoder",)).activations

    assert spared["encoder"] < 0.5 * plain["encoder"]
    assert {part: held for part, held in plain.items() if part != "encoder"} == {
        part: held for part, held in spared.items() if part != "encoder"
    }


def test_the_state_follows_what_is_trained():
    sam3 = build_preset(preset_config("tiny-nano"), seed=0)
    every = 4 * sam3.num_parameters()
    trained = 4 * freeze_parts(sam3, (), task="detection", geometry_cls=True).num_trained

    plan = trace(settings(ema=0.99))

    assert (every, trained, 2 * trained, trained) == (plan.weights, plan.gradients, plan.optimizer, plan.ema)
    assert plan.state == every + 4 * trained
    assert plan.total == plan.state + plan.peak_beyond_state
    assert 0 == trace(settings()).ema


def test_a_frozen_text_encoder_is_neither_held_nor_run():
    plain, frozen = trace(settings()), trace(settings(freeze=("text",)))
    text = 4 * sum(
        p.numel()
        for name, p in build_preset(preset_config("tiny-nano"), seed=0).named_parameters()
        if name.startswith(("text_encoder.", "text_projection."))
    )

    assert plain.weights - text == frozen.weights
    assert "text" not in frozen.flops.forward
    assert "text" not in frozen.activations


def test_a_frozen_vision_backbone_holds_nothing_for_backward():
    plain, frozen = trace(settings()), trace(settings(freeze=("vision",)))

    assert frozen.activations["vision"] < 0.1 * plain.activations["vision"]
    assert plain.flops.forward == frozen.flops.forward
    assert frozen.flops.backward < plain.flops.backward


def test_masks_cost_only_segmentation():
    detection, segmentation = trace(settings()), trace(settings(segmentation=True))

    assert "mask" not in detection.activations
    assert segmentation.activations["mask"] > 0
    assert segmentation.losses > detection.losses
    assert segmentation.losses > SMALL.objects * 28 * 28


def test_low_precision_holds_less():
    full, low = (
        trace(settings(precision=precision), preset="tiny-demo", device_type="cuda") for precision in ("fp32", "bf16")
    )

    assert 0.4 * full.activations["encoder"] < low.activations["encoder"] < 0.8 * full.activations["encoder"]
    assert full.state == low.state
    assert full.flops == low.flops


def test_the_cpu_holds_attention_weights_that_a_gpu_does_not():
    cpu, gpu = (trace(settings(), preset="tiny-demo", device_type=device).activations for device in ("cpu", "cuda"))

    assert cpu["encoder"] > 1.5 * gpu["encoder"]


def test_auto_takes_the_first_rung_that_fits(monkeypatch: pytest.MonkeyPatch):
    config = settings(segmentation=True)
    monkeypatch.setattr(cost, "LADDER", (rungs := (LADDER[0], LADDER[1], LADDER[-1])))
    plans = [trace(config, checkpointed=parts) for parts in rungs]

    def choose(budget: int | None) -> MemoryPlan:
        return plan_memory(config, preset_config("tiny-nano"), SMALL, device_type="cpu", budget=budget)

    assert () == choose(None).checkpointed
    assert () == choose(plans[0].total).checkpointed
    assert LADDER[1] == choose(plans[0].total - 1).checkpointed
    tight = choose(plans[-1].total)
    assert (True, plans[-1].total) == (tight.fits, tight.budget)
    nothing = choose(plans[-1].state)
    assert (LADDER[-1], False) == (nothing.checkpointed, nothing.fits)


@pytest.mark.parametrize(("chosen", "expected"), [("none", ()), (("vision", "mask"), ("vision", "mask"))])
def test_a_choice_is_kept_even_where_it_does_not_fit(chosen: Any, expected: Any):
    config = settings(checkpointing=chosen)

    plan = plan_memory(config, preset_config("tiny-nano"), SMALL, device_type="cpu", budget=1)

    assert (expected, False) == (plan.checkpointed, plan.fits)


class Forgetful(ShapeMemo):
    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("precision", "segmentation", "device", "checkpointed"),
    [
        ("fp32", False, "cpu", ()),
        ("bf16", True, "cuda", ()),
        ("bf16", True, "cuda", PARTS),
        ("fp16", False, "cpu", PARTS),
    ],
)
def test_a_step_is_planned_as_without_a_memory_of_shapes(
    monkeypatch: pytest.MonkeyPatch, precision: str, segmentation: Any, device: str, checkpointed: tuple[Part, ...]
):
    config = settings(precision=precision, segmentation=segmentation)
    remembered = trace(config, device_type=device, checkpointed=checkpointed)
    monkeypatch.setattr(tracing, "ShapeMemo", Forgetful)
    assert remembered == trace(config, device_type=device, checkpointed=checkpointed)


def test_tracing_leaves_no_trace():
    before = attention._kernel

    trace(settings())

    assert before is attention._kernel is attention.standard_kernel


def test_a_workload_counts_pairs_and_objects():
    assert Workload(images=2, phrases=3, pairs=6, objects=120) == Workload.of(2, 3)
