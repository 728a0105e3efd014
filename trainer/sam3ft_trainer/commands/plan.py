"""`plan`: what a run would do, without doing any of it."""

import argparse
import datetime as dt
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.run.plan import RunPlan, make_plan
from sam3ft_trainer.run.worker import read_config

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_FLOPS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("--config", type=Path, required=True, help="config document (JSON)")
    parser.add_argument("--nproc", type=int, default=1, help="processes that will share the work on this machine")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; nothing is written and no weight is loaded."""
    plan = make_plan(read_config(arguments.config), processes=arguments.nproc)
    if arguments.output == "json":
        sys.stdout.write(json.dumps(plan.to_json()) + "\n")
    else:
        sys.stdout.write("\n".join(lines(plan)) + "\n")
    return 0


def lines(plan: RunPlan) -> list[str]:
    """Return the plan for people."""
    return [
        *_what(plan),
        *_updates(plan),
        *_table("memory", _memory_rows(plan)),
        *_table("FLOPs of an update", [(part, flops_text(count)) for part, count in plan.flops_by_part.items()]),
        *_time(plan),
        *_storage(plan),
        *(f"{advice.level}: {advice.text}" for advice in plan.advice),
    ]


def _what(plan: RunPlan) -> list[str]:
    scratch, freeze = plan.config.scratch, plan.freeze
    frozen = f", frozen: {', '.join(freeze.parts)}" if freeze.parts else ""
    said = [
        f"task      {plan.config.task} at {scratch.resolution} px in {scratch.precision}",
        f"machine   {_count(plan.processes, 'process', 'processes')} on {plan.device} ({plan.device_name})",
        f"model     {plan.config.model.uri}: {freeze.num_trained:,} of {freeze.num_total:,} parameters trained{frozen}",
    ]
    for name, size in plan.splits.items():
        origin = " (held out of train)" if size.is_holdout else ""
        said.append(
            f"{name:<9} {_count(size.images, 'image')}, {_count(size.annotations, 'annotation')}, "
            f"{_count(size.categories, 'category', 'categories')}{origin}"
        )
    return said


def _updates(plan: RunPlan) -> list[str]:
    horizon, batch = plan.horizon, plan.config.scratch.train_batch_size
    epochs = f"{horizon.expected_steps / horizon.steps_per_epoch:.1f} epochs of {horizon.steps_per_epoch:,}"
    about = "about " if horizon.ends_by == "duration" else ""
    end = f"ends by {horizon.ends_by}; {_count(horizon.evaluations, 'evaluation')}"
    return [f"updates   {about}{horizon.expected_steps:,} of {_count(batch, 'image')} ({epochs}), {end}"]


def _memory_rows(plan: RunPlan) -> list[tuple[str, str]]:
    memory = plan.memory.plan
    rows = {"weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer}
    rows |= {"average": memory.ema} | {f"activations, {part}": size for part, size in memory.activations.items()}
    rows |= {"inputs and losses": memory.losses, "peak of a pass": memory.peak, "allowance": memory.overhead}
    said = [(name, size_text(size)) for name, size in rows.items() if size]
    share = 100 * memory.total / max(1, plan.memory.budget)
    said.append(("state + peak + allowance", f"{size_text(memory.total)} of {size_text(plan.memory.budget)} usable"))
    recomputed = ", ".join(plan.memory.checkpointed) or "nothing"
    return [*said, ("", f"{share:.0f} %, {_count(plan.micro_batch, 'image')} a pass, recomputing {recomputed}")]


def _table(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    return [title, *(f"  {name:<26} {value:>12}" for name, value in rows)]


def _time(plan: RunPlan) -> list[str]:
    estimate = plan.estimate
    digits = 2 if estimate.step_s < 10 else 0
    training = f"{duration_text(estimate.training_s)} of training ({estimate.step_s:,.{digits}f} s an update)"
    return [
        f"time      an estimate: {training} and {duration_text(estimate.evaluation_s)} of scoring",
        f"          from {estimate.basis}; nothing was measured",
    ]


def _storage(plan: RunPlan) -> list[str]:
    storage = plan.storage
    place = plan.config.checkpoint.uri or "the work folder"
    kept = f"at most {storage.kept_commits} at a time: {size_text(storage.checkpoints)}"
    return [
        f"storage   {size_text(storage.commit)} a checkpoint, {kept} in {place}",
        f"          {size_text(storage.export)} for the exported model",
    ]


def size_text(size: int) -> str:
    """Return bytes in the largest unit below them."""
    return next((f"{size / unit:.1f} {name}" for unit, name in _UNITS if size >= unit), f"{size} B")


def flops_text(count: float) -> str:
    """Return floating-point operations in the largest unit below them."""
    return next((f"{count / unit:.2f} {name}" for unit, name in _FLOPS if count >= unit), f"{count:.0f} FLOP")


def duration_text(seconds: float) -> str:
    """Return a duration to the second, with days where there are any."""
    return str(dt.timedelta(seconds=max(1, math.ceil(seconds))))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
