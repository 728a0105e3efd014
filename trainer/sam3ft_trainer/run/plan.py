"""What a run would do, reckoned without loading weights and without writing anything."""

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import Sam3Config

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.order import steps_per_epoch
from sam3ft_trainer.model.build import allocate_meta
from sam3ft_trainer.model.freeze import FreezeReport, freeze_parts
from sam3ft_trainer.run.advice import Advice, PlanFacts, advise
from sam3ft_trainer.run.foundation import open_splits
from sam3ft_trainer.run.horizon import planned_steps
from sam3ft_trainer.run.machine import choose_threads, select_device
from sam3ft_trainer.run.memory import MemoryLayout, lay_out_memory
from sam3ft_trainer.run.micro_batch import choose_micro_batch
from sam3ft_trainer.run.model_place import model_headers
from sam3ft_trainer.run.pace import AssumedPace, cpu_pace, gpu_pace
from sam3ft_trainer.run.preflight import most_commits

EXPORT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class SplitSize:
    """Size of one split.

    Attributes:
        images: of it.
        annotations: in the file, for these images.
        categories: that are asked.
        is_holdout: cut out of train.
    """

    images: int
    annotations: int
    categories: int
    is_holdout: bool


@dataclass(frozen=True, slots=True)
class Horizon:
    """How long the run is.

    Attributes:
        steps_per_epoch: updates of one pass over the images.
        total_steps: updates by `max_steps` or epochs; with a time budget only an upper bound.
        expected_steps: updates that are expected, at least 1.
        ends_by: steps, epochs or duration.
        evaluations: of the selection split, the untouched model's not counted.
    """

    steps_per_epoch: int
    total_steps: int
    expected_steps: int
    ends_by: str
    evaluations: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time, from assumed rates: nothing was run.

    Attributes:
        step_s: seconds of one update.
        training_s: of all updates.
        evaluation_s: of all evaluations.
        basis: what was assumed.
    """

    step_s: float
    training_s: float
    evaluation_s: float
    basis: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes on disks and in buckets.

    Attributes:
        commit: one checkpoint.
        kept_commits: `keep_last` and `keep_best`, and one that is being written.
        checkpoints: all of these at most.
        export: the model that is handed back.
    """

    commit: int
    kept_commits: int
    checkpoints: int
    export: int


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The plan. Memory is in bytes and of one process, FLOPs are of one update over all processes."""

    config: TrainingConfig
    processes: int
    device: str
    device_name: str
    splits: dict[str, SplitSize]
    freeze: FreezeReport
    horizon: Horizon
    micro_batch: int
    memory: MemoryLayout
    flops_by_part: dict[str, int]
    estimate: Estimate
    storage: Storage
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plan = self.memory.plan
        return {
            "task": self.config.task,
            "resolution": self.config.scratch.resolution,
            "precision": self.config.scratch.precision,
            "processes": self.processes,
            "device": {"type": self.device, "name": self.device_name},
            "model": {
                "uri": self.config.model.uri,
                "parameters": self.freeze.num_total,
                "trained": self.freeze.num_trained,
                "frozen": self.freeze.num_total - self.freeze.num_trained,
                "trained_by_part": self.freeze.trained_by_part,
            },
            "data": {name: asdict(size) for name, size in self.splits.items()},
            "updates": {**asdict(self.horizon), "images_per_update": self.config.scratch.train_batch_size},
            "memory": {
                "micro_batch": self.micro_batch,
                "recomputed": list(self.memory.checkpointed),
                "weights": plan.weights,
                "gradients": plan.gradients,
                "optimizer": plan.optimizer,
                "ema": plan.ema,
                "activations": dict(plan.activations),
                "losses": plan.losses,
                "step_peak": plan.peak,
                "overhead": plan.overhead,
                "total": plan.total,
                "budget": self.memory.budget,
            },
            "flops": {**self.flops_by_part, "total": sum(self.flops_by_part.values())},
            "time": asdict(self.estimate),
            "storage": asdict(self.storage),
            "advice": [asdict(advice) for advice in self.advice],
        }


def make_plan(config: TrainingConfig, *, processes: int) -> RunPlan:
    """Reckon what a run with these settings would do on this machine.

    Args:
        config: the run's settings.
        processes: that share the work, all on this machine.

    Raises:
        InvalidConfig: more processes than images in a batch, or nothing left to train.
        InvalidDataset, ModelUnusable, StorageDenied, DeviceOutOfMemory: as the run itself would.
    """
    batch = config.scratch.train_batch_size
    if not 1 <= processes <= batch:
        raise InvalidConfig(f"--nproc {processes} is not within 1..{batch}, the images of a global batch")
    datasets = open_splits(config)
    with model_headers(config.model.uri, config, os.environ) as place:
        architecture = place.architecture(config)
    device = select_device(config.runtime.device, local_rank=0)
    layout = lay_out_memory(
        config, architecture, datasets["train"], device=device, world_size=processes, processes_here=processes
    )
    micro_batch = choose_micro_batch(
        wanted=config.runtime.micro_batch,
        committed=None,
        fits=layout.micro_batch,
        upper_bound=None,
        batch_size=batch,
        world_size=processes,
    )
    freeze = _freeze(config, architecture)
    pace = _pace(config, device, processes)
    step_s = update_s(layout, pace, share=math.ceil(batch / processes), micro_batch=micro_batch)
    horizon = plan_horizon(config, len(datasets["train"]), step_s=step_s)
    return RunPlan(
        config=config,
        processes=processes,
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores",
        splits={name: _size(dataset, datasets["train"]) for name, dataset in datasets.items()},
        freeze=freeze,
        horizon=horizon,
        micro_batch=micro_batch,
        memory=layout,
        flops_by_part=update_flops(layout, batch),
        estimate=_estimate(config, layout, pace, horizon, datasets, step_s=step_s, processes=processes),
        storage=plan_storage(config, layout, num_total=freeze.num_total),
        advice=tuple(advise(_facts(config, horizon, layout, device, processes=processes, micro_batch=micro_batch))),
    )


def plan_horizon(config: TrainingConfig, num_images: int, *, step_s: float) -> Horizon:
    """Return how long the run is; a time budget counts when it is expected to end first.

    Args:
        config: epochs, steps, duration and the interval of evaluations.
        num_images: of train.
        step_s: expected seconds of one update.
    """
    scratch = config.scratch
    per_epoch = steps_per_epoch(num_images, scratch.train_batch_size)
    planned = planned_steps(scratch, num_images)
    expected, ends_by = planned, "steps" if scratch.max_steps else "epochs"
    if scratch.max_duration_s is not None:
        within = max(1, int(scratch.max_duration_s / step_s))
        if within < planned:
            expected, ends_by = within, "duration"
    every = config.evaluation.every_epochs
    evaluations = 1 if every is None else max(1, math.ceil(expected / (every * per_epoch) - 1e-9))
    return Horizon(per_epoch, planned, expected, ends_by, evaluations)


def update_flops(layout: MemoryLayout, batch: int) -> dict[str, int]:
    """Return the FLOPs of one update by part of the forward, and `backward` and `recomputed`; over all processes."""
    images = max(1, layout.micro_batch)
    flops = layout.plan.flops
    parts = {**flops.forward, "backward": flops.backward, "recomputed": flops.recomputed}
    return {part: round(count * batch / images) for part, count in parts.items() if count}


def update_s(layout: MemoryLayout, pace: AssumedPace, *, share: int, micro_batch: int) -> float:
    """Return the expected seconds of one update.

    Args:
        layout: with the FLOPs of a pass of `layout.micro_batch` images.
        pace: assumed.
        share: images of one process.
        micro_batch: images of one pass.
    """
    flops = layout.plan.flops
    per_image = (flops.total + flops.recomputed) / max(1, layout.micro_batch)
    passes = math.ceil(share / micro_batch)
    return passes * pace.overhead_s + share * per_image / pace.flops_per_s


def plan_storage(config: TrainingConfig, layout: MemoryLayout, *, num_total: int) -> Storage:
    """Return what checkpoints and export take; a commit holds weights, AdamW's moments and the average."""
    commit = layout.plan.commit
    kept = most_commits(config.checkpoint)
    return Storage(commit, kept, kept * commit, num_total * EXPORT_BYTES[config.export.dtype])


def _freeze(config: TrainingConfig, architecture: Sam3Config) -> FreezeReport:
    return freeze_parts(
        allocate_meta(architecture), config.model.freeze, task=config.task, geometry_cls=config.model.geometry_cls
    )


def _pace(config: TrainingConfig, device: torch.device, processes: int) -> AssumedPace:
    precision = config.scratch.precision
    if device.type == "cuda":
        return gpu_pace(torch.cuda.get_device_name(device), precision)
    threads = choose_threads(config.runtime.threads, None, processes_on_node=processes)
    return cpu_pace(precision, threads=min(threads, len(os.sched_getaffinity(0))))


def _estimate(
    config: TrainingConfig,
    layout: MemoryLayout,
    pace: AssumedPace,
    horizon: Horizon,
    datasets: dict[str, CocoDataset],
    *,
    step_s: float,
    processes: int,
) -> Estimate:
    """Scoring is a forward for each image: before (`baseline`), at every evaluation, and twice on test at the end."""
    valid = len(datasets["valid"])
    test = len(datasets.get("test", datasets["valid"]))
    images = horizon.evaluations * valid + 2 * test
    if config.evaluation.baseline:
        images += valid + (test if "test" in datasets else 0)
    forward = sum(layout.plan.flops.forward.values()) / max(1, layout.micro_batch)
    training_s = horizon.expected_steps * step_s
    return Estimate(step_s, training_s, images * pace.pass_s(forward) / processes, pace.basis)


def _size(dataset: CocoDataset, train: CocoDataset) -> SplitSize:
    shared = dataset.split == "valid" and dataset.report.address == train.report.address
    return SplitSize(len(dataset), dataset.report.annotations, len(dataset.categories), shared)


def _facts(
    config: TrainingConfig,
    horizon: Horizon,
    layout: MemoryLayout,
    device: torch.device,
    *,
    processes: int,
    micro_batch: int,
) -> PlanFacts:
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else True
    return PlanFacts(
        updates=horizon.expected_steps,
        steps_per_epoch=horizon.steps_per_epoch,
        ends_by=horizon.ends_by,
        warmup=config.optim.warmup,
        cooldown=config.optim.cooldown,
        batch=config.scratch.train_batch_size,
        rate=config.optim.lr,
        precision=config.scratch.precision,
        device=device.type,
        device_has_bf16=has_bf16,
        processes=processes,
        micro_batch=micro_batch,
        recomputed=layout.checkpointed,
        wanted_micro_batch=config.runtime.micro_batch,
    )
