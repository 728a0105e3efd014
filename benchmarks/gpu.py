"""Training steps of the 840-million-parameter model on a GPU: speed, share of the bf16 peak, memory, idle time.

    PYTHONPATH=crds:trainer python -m benchmarks.gpu [--quick] [--cases detection-1-b2-none ...] [--peak-tflops 989]

Random weights and random images, default settings, bf16 autocast. The steps are those of a run: the same feed, stepper,
losses, clipping and fused AdamW in the same order, with ready batches in the loader's place. A case is
TASK-PHRASES-bIMAGES-CHECKPOINTING; phrases are asked of every image and all have objects. Without --cases all
combinations run, with --quick a few. A case that does not fit is a row too.

    images/s   measured from the end of the last warm-up step to the end of the last step
    peak       share of the device's dense bf16 peak: FLOPs of forward and backward without recomputation, per second
    alloc, reserved, plan   GiB: most bytes in tensors, most held by torch's allocator, and (--plan) what was planned
    idle       share of the time in which the device had nothing to do between two steps
    match      share of the time in which it waited, within steps, for the host to solve the assignments
    syncs      calls in one step that made the host wait for the device; the matching's own wait is not counted

Needs torch, torchvision, transformers and SciPy, and no network. The last line is JSON.
"""

import argparse
import gc
import json
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from benchmarks.gpu_cases import RECOMPUTED, Case, Settings, peak_by_name
from benchmarks.gpu_steps import Steps, phrase_names
from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_api.training import ModelConfig, RuntimeConfig, TrainingConfig
from sam3ft_trainer.model.cost import Workload, trace_step
from sam3ft_trainer.model.load import load_model, read_model_config
from sam3ft_trainer.model.text import PhraseCache
from sam3ft_trainer.run.machine import select_device, settle

GIB = 1 << 30
QUICK = ("detection-1-b1-none", "detection-8-b2-detr", "segmentation-1-b1-none", "segmentation-8-b1-all")
HEADER = (
    f"{'case':28} {'images/s':>9} {'ms/step':>9} {'peak':>6} {'alloc':>6} {'reserved':>8} {'plan':>6} {'idle':>6} "
    f"{'match':>6} {'syncs':>5}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen cases, print a row for each and a JSON line; return the exit code."""
    arguments = _arguments(argv)
    try:
        quick = QUICK if arguments.quick else ()
        cases = [Case.parse(name) for name in arguments.cases or quick] or Case.every()
        settings = _settings(arguments)
        bench = Bench(settings, phrases=max(case.phrases for case in cases))
    except Sam3ftError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    except ValidationError as error:
        print(error, file=sys.stderr)
        return int(InvalidConfig.code)
    facts = describe(settings)
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    print(HEADER, flush=True)
    rows = run_cases(cases, bench.measure, bench.release)
    print(json.dumps({**facts, "rows": rows}))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="rows to measure; default: all combinations")
    parser.add_argument("--quick", action="store_true", help="a few cases and few steps")
    parser.add_argument("--preset", default="sam3", help="model with random weights")
    parser.add_argument("--resolution", type=int, default=1008)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the benchmark itself")
    parser.add_argument("--objects", type=int, default=20, help="annotated objects of each phrase in an image")
    parser.add_argument("--warmup", type=int, help="steps before the clock starts; default 4, with --quick 2")
    parser.add_argument("--steps", type=int, help="timed steps; default 12, with --quick 3")
    parser.add_argument("--freeze", nargs="+", default=(), metavar="PART", help="parts not trained, such as text")
    parser.add_argument("--compile", choices=("auto", "always", "never"), default="auto", help="as runtime.compile")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak; default: by the device's name")
    parser.add_argument("--plan", action="store_true", help="show the planned memory; seconds of tracing for each case")
    return parser.parse_args(argv)


def _settings(arguments: argparse.Namespace) -> Settings:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InvalidConfig("torch finds no usable CUDA device; check the driver, or pass --device cpu")
    device = select_device(arguments.device, local_rank=0)
    settle(device, RuntimeConfig(), precision="bf16", committed_threads=None)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return Settings(
        preset=arguments.preset,
        resolution=arguments.resolution,
        device=device,
        objects=arguments.objects,
        warmup=max(1, arguments.warmup or (2 if arguments.quick else 4)),
        steps=max(1, arguments.steps or (3 if arguments.quick else 12)),
        freeze=ModelConfig(freeze=arguments.freeze).freeze,
        peak_tflops=arguments.peak_tflops or peak_by_name(name),
        compile=arguments.compile,
        plan=arguments.plan,
    )


def describe(settings: Settings) -> dict[str, Any]:
    """Return what a reader of the figures must know."""
    device = settings.device
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({torch.get_num_threads()} threads)",
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / GIB, 1) if cuda else None,
        "peak_tflops": settings.peak_tflops,
        "preset": settings.preset,
        "resolution": settings.resolution,
        "objects": settings.objects,
        "freeze": list(settings.freeze),
        "compile": settings.compile,
        "steps": settings.steps,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def run_cases(
    cases: Sequence[Case], measure: Callable[[Case], dict[str, Any]], release: Callable[[], None]
) -> list[dict[str, Any]]:
    """Measure each case, print its row at once, and give its memory back before the next; return the rows."""
    rows = []
    for case in cases:
        row: dict[str, Any] = {"case": case.name, "status": "ok"}
        try:
            row |= measure(case)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            row["status"] = "out of memory"
        # Behind the handler: until it ends, the error's traceback holds every tensor of the step.
        release()
        rows.append(row)
        print(line(row), flush=True)
    return rows


def is_out_of_memory(error: RuntimeError) -> bool:
    """Say whether the device has no memory left, whichever library noticed."""
    told = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in told)


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    if row["status"] != "ok":
        return f"{row['case']:28} {row['status']}"

    def show(value: float | None, width: int, form: str) -> str:
        return "-".rjust(width) if value is None else format(value, f"{width}{form}")

    syncs = None if row["syncs"] is None else len(row["syncs"])
    return " ".join(
        (
            f"{row['case']:28}",
            show(row["images_per_s"], 9, ".2f"),
            show(1000 * row["step_s"], 9, ".1f"),
            show(row["peak_share"], 6, ".1%"),
            show(row["allocated_gib"], 6, ".1f"),
            show(row["reserved_gib"], 8, ".1f"),
            show(row["planned_gib"], 6, ".1f"),
            show(row["idle_share"], 6, ".1%"),
            show(row["matching_share"], 6, ".1%"),
            show(syncs, 5, "d"),
        )
    )


class Bench:
    """The model, loaded once, and the measuring of one case after another."""

    def __init__(self, settings: Settings, *, phrases: int) -> None:
        """Load the model; with a frozen text encoder keep the features of up to `phrases` phrases instead of it."""
        self._settings = settings
        config = settings.config(Case("detection", 1, 1, "none"))
        uri, resolution = config.model.uri, settings.resolution
        self._architecture = read_model_config(uri, config.model, resolution=resolution)
        self.loaded = load_model(uri, config.model, resolution=resolution, device=settings.device, seed=0)
        self._flops: dict[tuple[str, int, int], int] = {}
        self.cache: PhraseCache | None = None
        if "text" in settings.freeze:
            self.cache = PhraseCache(self.loaded.sam3, self.loaded.tokenizer)
            self.cache.add(phrase_names(phrases))
            self.cache.release_encoder()

    def measure(self, case: Case) -> dict[str, Any]:
        """Return the figures of one case."""
        settings, cuda = self._settings, self._settings.device.type == "cuda"
        config = settings.config(case)
        flops, planned = self._cost(case, config)
        if cuda:
            torch.cuda.reset_peak_memory_stats(settings.device)
        steps = Steps(self.loaded, self.cache, settings, case, config)
        row = steps.time() | {
            "allocated_gib": torch.cuda.max_memory_allocated(settings.device) / GIB if cuda else None,
            "reserved_gib": torch.cuda.max_memory_reserved(settings.device) / GIB if cuda else None,
            "planned_gib": None if planned is None else planned / GIB,
            "tflop": flops / 1e12,
        }
        per_second = row["tflop"] / row["step_s"]
        row["peak_share"] = None if settings.peak_tflops is None else per_second / settings.peak_tflops
        return row | {"syncs": steps.syncs() if cuda else None}

    def _cost(self, case: Case, config: TrainingConfig) -> tuple[int, int | None]:
        """Return the FLOPs of a step without recomputation, and the planned memory when it is asked for.

        Tracing takes seconds at the real size. Without the plan it is done once for the cases that differ in what is
        recomputed alone.
        """
        sizes = (case.task, case.phrases, case.images)
        if sizes in self._flops and not self._settings.plan:
            return self._flops[sizes], None
        plan = trace_step(
            config,
            self._architecture,
            Workload.of(case.images, case.phrases, objects_per_pair=self._settings.objects),
            device_type=self._settings.device.type,
            checkpointed=RECOMPUTED[case.checkpointing] if self._settings.plan else (),
        )
        self._flops[sizes] = plan.flops.total
        return plan.flops.total, plan.total if self._settings.plan else None

    def release(self) -> None:
        """Drop gradients and whatever the last case left, and give the memory back to the device."""
        for parameter in self.loaded.sam3.parameters():
            parameter.grad = None
        gc.collect()
        if self._settings.device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
