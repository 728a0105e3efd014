"""How a run fits the memory at hand: images per forward pass, and what is recomputed in backward."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import Sam3Config

from sam3ft_api.errors import DeviceOutOfMemory
from sam3ft_api.training import Part, TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.model.cost import MemoryPlan, Workload, least_recomputed, rungs_of, trace_step
from sam3ft_trainer.run.machine import free_memory_bytes
from sam3ft_trainer.run.micro_batch import images_per_rank

USABLE_SHARE = 0.92
"""Of the free memory; the rest is for what a plan cannot see, such as other programs that grow."""
CHEAP_RUNGS = 3
"""The first rungs of `LADDER` cost a few percent of the FLOPs; those with the ViT a third."""
CPU_IMAGES_MAX = 8
"""On the CPU larger micro-batches bring no speed, only memory."""
GIB = 1 << 30

Tracer = Callable[[int, tuple[Part, ...]], MemoryPlan]


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """The choice, with the plan that it rests on.

    Attributes:
        micro_batch: images per forward pass and process.
        checkpointed: parts whose activations are recomputed in backward.
        budget: bytes that this process may use.
        plan: bytes by part for this choice.
    """

    micro_batch: int
    checkpointed: tuple[Part, ...]
    budget: int
    plan: MemoryPlan

    def summary(self) -> dict[str, Any]:
        """Return the numbers for an event."""
        return {
            "micro_batch": self.micro_batch,
            "checkpointed": list(self.checkpointed),
            "state_bytes": self.plan.state,
            "step_bytes": self.plan.peak_beyond_state,
            "budget_bytes": self.budget,
        }


def workload_of(config: TrainingConfig, train: CocoDataset, images: int) -> Workload:
    """Return the sizes of a typical micro-batch of `images`: all phrases of an image, its average objects."""
    phrases = min(config.data.max_phrases_per_image, len(train.categories))
    objects = sum(category.objects for category in train.report.categories)
    per_pair = math.ceil(objects / max(1, len(train)) / phrases)
    return Workload.of(images, phrases, objects_per_pair=max(1, per_pair))


def lay_out_memory(
    config: TrainingConfig,
    sam3_config: Sam3Config,
    train: CocoDataset,
    *,
    device: torch.device,
    world_size: int,
    processes_here: int,
) -> MemoryLayout:
    """Choose the largest micro-batch that fits, recomputing no more than that needs.

    Call it before weights are on the device: the plan counts them.

    Args:
        config: the run's settings.
        sam3_config: architecture, its image size set.
        train: for the number of phrases and objects of an image.
        device: whose memory is free now.
        world_size: processes that share the global batch.
        processes_here: processes that share this machine's memory, without devices of their own.

    Raises:
        DeviceOutOfMemory: not even one image fits with everything recomputed; says what is needed and what is there.
    """
    budget = int(free_memory_bytes(device) * USABLE_SHARE)
    if device.type == "cpu":
        budget //= processes_here

    def trace(images: int, parts: tuple[Part, ...]) -> MemoryPlan:
        workload = workload_of(config, train, images)
        return trace_step(config, sam3_config, workload, device_type=device.type, checkpointed=parts, budget=budget)

    share = images_per_rank(batch_size=config.scratch.train_batch_size, world_size=world_size)
    wanted = config.runtime.micro_batch
    if wanted is None and device.type == "cpu":
        share = min(share, CPU_IMAGES_MAX)
    images, parts, plan = choose_layout(trace, rungs_of(config), budget=budget, share=share, wanted=wanted)
    if not plan.fits:
        raise DeviceOutOfMemory(
            f"a step of {images} image(s) needs {plan.total / GIB:.1f} GiB ({plan.state / GIB:.1f} for weights, "
            f"gradients and optimizer), and {budget / GIB:.1f} GiB of the {device.type} memory may be used; lower "
            "scratch.resolution, freeze parts (model.freeze: [text] saves most), or take a larger device"
        )
    return MemoryLayout(micro_batch=images, checkpointed=parts, budget=budget, plan=plan)


def trace_alone(config: TrainingConfig, sam3_config: Sam3Config, train: CocoDataset) -> MemoryPlan:
    """Return the plan of a step of one image on no device in particular, for what is the same on all: sizes on disk.

    Args:
        config: the run's settings.
        sam3_config: architecture, its image size set.
        train: for the number of phrases and objects of an image.
    """
    workload = workload_of(config, train, 1)
    return trace_step(config, sam3_config, workload, device_type="cpu", checkpointed=())


def choose_layout(
    trace: Tracer, rungs: tuple[tuple[Part, ...], ...], *, budget: int, share: int, wanted: int | None
) -> tuple[int, tuple[Part, ...], MemoryPlan]:
    """Return images, recomputed parts and plan of the best choice that fits, else of the smallest one; pure.

    Cheap recomputation goes before a smaller micro-batch, a smaller micro-batch before recomputing the ViT. Tracing is
    asked as seldom as possible, because it takes seconds at the real size and stands in the way of every start: first
    for what is wished, which most often fits. What a step needs grows a little slower than its images, so where it
    does not, the plan of one image says how many will fit.

    Args:
        trace: plans one choice.
        rungs: sets of recomputed parts, cheapest first.
        budget: bytes that may be used.
        share: most images of a rank.
        wanted: the user's micro-batch; then only the rung is chosen.
    """
    trace = cache(trace)
    if wanted is not None:
        plan = least_recomputed(trace(wanted, parts) for parts in rungs)
        return wanted, plan.checkpointed, plan
    plan = trace(share, rungs[0])
    if plan.fits:
        return share, rungs[0], plan
    best: tuple[int, tuple[Part, ...], MemoryPlan] | None = None
    for number, parts in enumerate(rungs):
        if number >= CHEAP_RUNGS and best is not None and best[0] > 0:
            break
        plan = trace(1, parts)
        fitting = max(0, (budget - plan.state) // max(1, plan.peak_beyond_state))
        images = min(share, fitting)
        if best is None or images > best[0]:
            best = (images, parts, plan)
        if images == share:
            break
    assert best is not None  # noqa: S101 - there is always a rung; narrows the type
    images, parts, plan = best
    images = max(1, images)
    return images, parts, plan if images == 1 else trace(images, parts)
