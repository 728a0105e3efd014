"""What a plan should make its reader think about; pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sam3ft_api.training import Precision

FEW_UPDATES = 500
"""Fine-tuning runs with fewer updates leave most of what the data could teach."""
RAMP_SHARE = 0.1
"""Warm-up and cool-down together beyond this share of a run train at less than its rate for too long."""
REFERENCE_BATCH = 2
"""Images per update that upstream's rates go with."""
DEFAULT_RATE = 8e-5
"""Upstream's rate of the transformer (facebookresearch/sam3, fine-tuning configurations)."""
NEAR = 1.5
"""A rate within this factor of the rule's counts as following it."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice.

    Attributes:
        level: `warning` asks for a decision, `note` only tells.
        kind: CamelCase word for machines.
        text: for people: what is the case, and what to do.
    """

    level: Literal["warning", "note"]
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What advice depends on.

    Attributes:
        updates: optimizer steps that are expected, at least 1.
        steps_per_epoch: optimizer steps of one pass.
        ends_by: what ends the run: steps, epochs or duration.
        warmup, cooldown: steps.
        batch: images per update, over all processes.
        rate: `optim.lr`.
        precision: of the forward pass.
        device: cpu or cuda.
        device_has_bf16: the device computes bfloat16 itself.
        processes: that share a batch.
        micro_batch: images per forward pass and process.
        recomputed: parts recomputed in backward.
        wanted_micro_batch: the user's setting.
    """

    updates: int
    steps_per_epoch: int
    ends_by: str
    warmup: int
    cooldown: int
    batch: int
    rate: float
    precision: Precision
    device: str
    device_has_bf16: bool
    processes: int
    micro_batch: int
    recomputed: tuple[str, ...]
    wanted_micro_batch: int | None


def advise(facts: PlanFacts) -> list[Advice]:
    """Return the advice for a plan, warnings first."""
    found = [*_length(facts), *_rate(facts), *_precision(facts), *_micro_batch(facts)]
    return sorted(found, key=lambda advice: advice.level != "warning")


def _length(facts: PlanFacts) -> Iterator[Advice]:
    if facts.updates < FEW_UPDATES:
        epochs = math.ceil(FEW_UPDATES / facts.steps_per_epoch)
        remedies = {"duration": "raise scratch.max_duration_s", "steps": "raise scratch.max_steps"}
        remedy = remedies.get(facts.ends_by, f"{epochs} epochs would make {FEW_UPDATES}")
        yield Advice(
            "warning",
            "FewUpdates",
            f"the run has {facts.updates} updates, and under {FEW_UPDATES} fine-tuning is rarely finished; {remedy}, "
            "or make scratch.train_batch_size smaller",
        )
    ramps = facts.warmup + facts.cooldown
    if ramps > RAMP_SHARE * facts.updates:
        yield Advice(
            "warning",
            "LongRamps",
            f"warm-up ({facts.warmup}) and cool-down ({facts.cooldown}) take {100 * ramps / facts.updates:.0f} % of "
            f"the {facts.updates} updates, a tenth is usual; train longer, or lower optim.warmup and optim.cooldown to "
            f"{max(1, int(RAMP_SHARE * facts.updates / 2))} each",
        )


def _rate(facts: PlanFacts) -> Iterator[Advice]:
    """State the rule: for Adam rates go with the square root of the batch (Malladi et al., arXiv 2205.10287)."""
    rule = DEFAULT_RATE * math.sqrt(facts.batch / REFERENCE_BATCH)
    follows = rule / NEAR <= facts.rate <= rule * NEAR
    stated = (
        f"optim.lr is {facts.rate:.2g} for {facts.batch} images per update; upstream's {DEFAULT_RATE:.2g} goes with "
        f"{REFERENCE_BATCH}, and with Adam the rate usually goes with the square root of the batch, here {rule:.2g}"
    )
    if follows:
        yield Advice("note", "BatchAndRate", stated)
    else:
        yield Advice("warning", "BatchAndRate", f"{stated}; change one of the two unless this rate is known to work")


def _precision(facts: PlanFacts) -> Iterator[Advice]:
    if facts.precision == "bf16" and not facts.device_has_bf16:
        better = "fp16" if facts.device == "cuda" else "fp32"
        yield Advice(
            "warning",
            "PrecisionIsEmulated",
            f"this {facts.device} has no bfloat16 arithmetic and emulates it slowly; set scratch.precision: {better}",
        )
    if facts.precision == "fp16" and facts.device == "cpu":
        yield Advice(
            "warning", "PrecisionIsEmulated", "fp16 is slow on a CPU and gains nothing; set scratch.precision: fp32"
        )
    if facts.precision == "fp32" and facts.device == "cuda":
        better = "bf16" if facts.device_has_bf16 else "fp16"
        yield Advice(
            "note", "FullPrecision", f"fp32 leaves the tensor cores unused; scratch.precision: {better} is much faster"
        )


def _micro_batch(facts: PlanFacts) -> Iterator[Advice]:
    share = math.ceil(facts.batch / facts.processes)
    if facts.wanted_micro_batch is not None and facts.wanted_micro_batch > share:
        yield Advice(
            "note",
            "MicroBatchIsLarger",
            f"runtime.micro_batch {facts.wanted_micro_batch} is more than the {share} images of a process; {share} "
            "are used",
        )
    passes = math.ceil(share / facts.micro_batch)
    if passes > 1:
        yield Advice(
            "note",
            "GradientsAccumulate",
            f"an update takes {passes} passes of at most {facts.micro_batch} images each; the result is the same as in "
            "one pass",
        )
    if facts.recomputed:
        yield Advice(
            "note",
            "PartsAreRecomputed",
            f"{', '.join(facts.recomputed)} are computed twice in every pass to fit the memory, which costs time",
        )
