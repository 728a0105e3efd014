"""One full fp32 training step of the 840-million-parameter model on the CPU: memory and time against the plan.

    python -m benchmarks.fullsize [--cases detection-1 segmentation-8] [--budget-gib 22] [--freeze text]

Random weights, random pixels, default settings (dropout, one-to-many queries, masks at full resolution). Each case is
a process of its own: it makes model, gradients and AdamW's moments, notes its memory, does one step (forward, loss,
backward, clip, update) and reports the highest memory beyond that state. What is recomputed is chosen by the planner
for the memory that is free, as in a run. Linux only; the last line is JSON.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

GIB = 1 << 30
CASES = ("detection-1", "detection-8", "segmentation-1", "segmentation-8")
TOLERANCE = 0.15
"""Largest accepted share by which the measured peak beyond the state may differ from the plan."""
SPARE = GIB
"""Left to other programs when the budget is taken from the free memory."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        case: task and number of phrases, e.g. `detection-8`.
        preset: model; anything but `sam3` is for trying the benchmark itself.
        resolution: side of the input in pixels.
        objects: annotated objects of each phrase.
        budget: bytes that model, optimizer and step may use together.
        threads: CPU threads.
        freeze: parts that are not trained; with `text` its features are cached and its weights dropped.
    """

    case: str
    preset: str
    resolution: int
    objects: int
    budget: int
    threads: int
    freeze: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """`detection` or `segmentation`."""
        return self.case.split("-")[0]

    @property
    def phrases(self) -> int:
        """Phrases asked of the one image."""
        return int(self.case.split("-")[1])


def main() -> int:
    """Measure each case in a process of its own; return 1 when one differs from its plan by more than `TOLERANCE`."""
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(measure(Settings(**json.loads(arguments.child)))))
        return 0
    results = []
    for case in arguments.cases:
        budget = arguments.budget_gib * GIB if arguments.budget_gib else psutil.virtual_memory().available - SPARE
        settings = Settings(
            case=case,
            preset=arguments.preset,
            resolution=arguments.resolution,
            objects=arguments.objects,
            budget=int(budget),
            threads=arguments.threads,
            freeze=tuple(arguments.freeze),
        )
        results.append(_run(settings))
        print(_line(results[-1]), flush=True)
    print(json.dumps(results))
    return int(any(result.get("error") or abs(result["difference"]) > TOLERANCE for result in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--preset", default="sam3")
    parser.add_argument("--resolution", type=int, default=1008)
    parser.add_argument("--objects", type=int, default=20, help="annotated objects of each phrase")
    parser.add_argument("--budget-gib", type=float, help="memory for everything; default: what is free, less 1 GiB")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--freeze", nargs="*", default=(), help="parts not trained, as model.freeze")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(settings: Settings) -> dict[str, Any]:
    """Measure in a fresh process; an end by the kernel's memory killer is a result too."""
    fields = {name: getattr(settings, name) for name in Settings.__slots__}
    command = [sys.executable, "-m", "benchmarks.fullsize", "--child", json.dumps(fields)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"case": settings.case, "error": f"ended with {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _line(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['case']:15} {result['error']}"
    return (
        f"{result['case']:15} state {result['state'] / GIB:5.2f} GiB, beyond it {result['measured'] / GIB:5.2f} "
        f"measured, {result['planned'] / GIB:5.2f} planned ({100 * result['difference']:+.1f} %); "
        f"recomputed: {', '.join(result['checkpointed']) or 'nothing'}; {result['teraflops']:.1f} TFLOP, "
        f"{result['seconds']:.0f} s (forward {result['forward_s']:.0f}), loss {result['loss']:.2f}"
    )


def measure(settings: Settings) -> dict[str, Any]:
    """Do one training step, and return what it took beside what the plan said."""
    # Imported here, so that the parent process stays small while the child needs the memory.
    import torch  # noqa: PLC0415

    from sam3ft_api.training import ModelConfig, ScratchConfig, TrainingConfig  # noqa: PLC0415
    from sam3ft_trainer.model.allocator import map_large_blocks  # noqa: PLC0415
    from sam3ft_trainer.model.cost import Workload, plan_memory  # noqa: PLC0415
    from sam3ft_trainer.model.load import load_model, read_model_config  # noqa: PLC0415

    map_large_blocks()  # as a run on the CPU does
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    config = TrainingConfig(
        scratch=ScratchConfig(
            enable_segmentation=settings.task == "segmentation", resolution=settings.resolution, precision="fp32"
        ),
        model=ModelConfig(uri=f"preset:{settings.preset}", freeze=settings.freeze),
    )
    workload = Workload.of(1, settings.phrases, objects_per_pair=settings.objects)
    architecture = read_model_config(config.model.uri, config.model, resolution=settings.resolution)
    plan = plan_memory(config, architecture, workload, device_type="cpu", budget=settings.budget)
    loaded = load_model(config.model.uri, config.model, resolution=settings.resolution, device="cpu", seed=0)
    step = Step(config, loaded, workload, plan.checkpointed)
    _return_memory()
    _forget_peak()
    before = psutil.Process().memory_info().rss
    seconds, forward_s, loss = step.run()
    measured = _peak() - before
    return {
        "case": settings.case,
        "state": plan.state,
        "resident_before": before,
        "measured": measured,
        "planned": plan.peak_beyond_state,
        "difference": measured / plan.peak_beyond_state - 1,
        "fits": plan.fits,
        "checkpointed": list(plan.checkpointed),
        "activations": plan.activations,
        "teraflops": (plan.flops.total + plan.flops.recomputed) / 1e12,
        "seconds": seconds,
        "forward_s": forward_s,
        "loss": loss,
    }


class Step:
    """A training step on random inputs, with everything that stays between steps allocated."""

    def __init__(self, config: Any, loaded: Any, workload: Any, checkpointed: tuple[Any, ...]) -> None:
        """Allocate model, gradients, moments and inputs."""
        import torch  # noqa: PLC0415

        from sam3ft_trainer.model.freeze import freeze_parts  # noqa: PLC0415
        from sam3ft_trainer.model.text import PhraseCache  # noqa: PLC0415
        from sam3ft_trainer.model.training import TrainingModel  # noqa: PLC0415
        from sam3ft_trainer.run.optim import build_optimizer  # noqa: PLC0415

        self.config, self.workload = config, workload
        freeze_parts(loaded.sam3, config.model.freeze, task=config.task, geometry_cls=config.model.geometry_cls)
        self.model = TrainingModel(loaded.sam3, config.model, checkpointed=checkpointed).train()
        self.optimizer = build_optimizer(loaded.sam3, config.optim, fused=False)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
            group["lr"] = 0.0
        self.optimizer.step()  # makes the moments
        side = config.scratch.resolution
        phrases = [f"phrase {number}" for number in range(workload.phrases)]
        self.ids, self.mask, _ = loaded.tokenizer.encode(phrases)
        self.features = None
        if "text" in config.model.freeze:
            cache = PhraseCache(loaded.sam3, loaded.tokenizer)
            cache.add(phrases)
            cache.release_encoder()
            self.features, self.mask = cache.gather(phrases, torch.device("cpu"))
        self.pixels = torch.randn(workload.images, 3, side, side)
        self.targets = _targets(workload, side, masks=config.task == "segmentation")

    def run(self) -> tuple[float, float, float]:
        """Return the seconds of the step and of its forward, and the loss."""
        import torch  # noqa: PLC0415

        from sam3ft_trainer.loss.total import compute_loss, local_counts  # noqa: PLC0415

        masks = self.config.task == "segmentation"
        counts = local_counts(self.targets, segmentation=masks)
        images = torch.zeros(self.workload.pairs, dtype=torch.int64)
        phrases = torch.arange(self.workload.pairs)
        start = time.perf_counter()
        inputs = (self.pixels, self.ids, self.mask, images, phrases)
        predictions = self.model(*inputs, o2m=True, masks=masks, text_features_TKD=self.features)
        forward_s = time.perf_counter() - start
        loss = compute_loss(predictions.float(), self.targets, counts, self.config.loss).total
        del predictions
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        return time.perf_counter() - start, forward_s, float(loss.detach())


def _targets(workload: Any, side: int, *, masks: bool) -> Any:
    """Random boxes, their masks the boxes themselves."""
    import torch  # noqa: PLC0415

    from sam3ft_trainer.tensors import Targets  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(workload.objects, 2, generator=generator) * 0.6 + 0.2
    boxes = torch.cat([centres, torch.rand(workload.objects, 2, generator=generator) * 0.2 + 0.05], dim=1)
    num_boxes = torch.full((workload.pairs,), workload.objects // workload.pairs)
    if not masks:
        return Targets(boxes, num_boxes)
    filled = torch.zeros(workload.objects, side, side, dtype=torch.uint8)
    for mask, (x, y, w, h) in zip(filled, (boxes * side).int().tolist(), strict=True):
        mask[y - h // 2 : y + h // 2 + 1, x - w // 2 : x + w // 2 + 1] = 1
    return Targets(boxes, num_boxes, filled, torch.ones(workload.objects, dtype=torch.bool))


def _return_memory() -> None:
    """Give freed heap pages back, so that the memory before the step is the state's."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _forget_peak() -> None:
    """Set the process's highest resident memory to what it is now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Return the highest resident memory since `_forget_peak`, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    sys.exit(main())
