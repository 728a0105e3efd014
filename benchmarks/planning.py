"""CPU seconds of planning a step's memory, beside the same without a memory of shapes.

    python -m benchmarks.planning [--rounds 5]

A step is traced on shapes, as every start of a run does it: of the tiny preset and of the published size at 1008 px
with masks, with nothing and with everything recomputed. In turn within a round, with operations answered from memory
and with all of them run; both plans must be equal. Seconds are those of the process, on one thread; figures are
medians. The last line is JSON.
"""

import argparse
import json
import time
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from sam3ft_api.training import Part, ScratchConfig, TrainingConfig
from sam3ft_trainer.model import tracing
from sam3ft_trainer.model.cost import LADDER, MemoryPlan, Workload, trace_step
from sam3ft_trainer.model.presets import preset_config
from sam3ft_trainer.model.shape_memo import ShapeMemo

CASES: dict[str, tuple[str, bool, str, tuple[Part, ...]]] = {
    "tiny, boxes": ("tiny", False, "fp32", LADDER[0]),
    "published size, masks": ("sam3", True, "bf16", LADDER[0]),
    "published size, masks, all recomputed": ("sam3", True, "bf16", LADDER[-1]),
}


class Forgetful(ShapeMemo):
    """Runs every operation."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what `func(*args, **kwargs)` does."""
        return func(*args, **kwargs)


def main() -> None:
    """Trace each case in turn with and without memory, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan("tiny, boxes", ShapeMemo)  # what only the first trace of a process imports
    figures: dict[str, dict[str, float]] = {}
    for case in CASES:
        seconds: dict[str, list[float]] = {"from memory": [], "all run": []}
        for _ in range(arguments.rounds):
            remembered, took_s = plan(case, ShapeMemo)
            seconds["from memory"].append(took_s)
            run, took_s = plan(case, Forgetful)
            seconds["all run"].append(took_s)
            if remembered != run:
                raise SystemExit(f"{case}: the plans differ")
        figures[case] = {way: round(median(values), 2) for way, values in seconds.items()}
        print(f"{case:<40}" + "".join(f"{way} {value:6.2f} s   " for way, value in figures[case].items()), flush=True)
    print(json.dumps(figures))


def plan(case: str, memo: type[ShapeMemo]) -> tuple[MemoryPlan, float]:
    """Return the plan of a case, and the CPU seconds that it took."""
    preset, masks, precision, recomputed = CASES[case]
    config = TrainingConfig(scratch=ScratchConfig(enable_segmentation=masks, precision=precision))
    device = "cpu" if precision == "fp32" else "cuda"
    begun_s = time.process_time()
    with patch.object(tracing, "ShapeMemo", memo):
        found = trace_step(
            config, preset_config(preset), Workload.of(2, 2), device_type=device, checkpointed=recomputed
        )
    return found, time.process_time() - begun_s


if __name__ == "__main__":
    main()
