"""What a step costs besides forward, backward and optimizer, measured by spans inside one real run; and the loader.

    python -m benchmarks.loop [--steps 40] [--batch 8]

Fine-tunes the tiny preset on the shipped blood cells at 224 px, where a step takes a few hundred milliseconds on two
cores, and reads the spans that the loop itself writes into its log. Everything that is none of the three counts as
overhead: waiting for data, agreeing, reading numbers, logging, copying state for a commit. The background upload of
a commit is not in a span, but what it slows down is. Then `benchmarks.loader` runs in the same invocation.
The last line is JSON.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

EXAMPLE = Path(__file__).parents[1] / "examples" / "blood-cells"
WORK = ("forward", "backward", "optimizer")
TARGET_SHARE = 0.03
LEAST_STEP_S = 0.2


def main() -> None:
    """Run, print the table, and end with 1 when a figure misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--no-loader", action="store_true", help="leave the loader benchmark out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        intervals = run(Path(folder), arguments.steps, arguments.batch)
    figures = judge(intervals, every=5)
    for name, seconds in figures["seconds_per_step"].items():
        print(f"{name:<12} {seconds * 1000:8.2f} ms a step")
    print(json.dumps(figures))
    if not arguments.no_loader:
        subprocess.run([sys.executable, "-m", "benchmarks.loader"], check=True)
    sys.exit(0 if figures["reached"] else 1)


def run(folder: Path, steps: int, batch: int) -> list[dict[str, float]]:
    """Train for `steps` steps in a process of its own and return the spans of each logged interval."""
    settings = [
        f"data.uri={EXAMPLE}",
        "scratch.resolution=224",
        "scratch.precision=fp32",
        f"scratch.train_batch_size={batch}",
        f"scratch.max_steps={steps}",
        "runtime.log_every=5",
        "checkpoint.every_steps=20",
        "evaluation.every_epochs=null",
        "evaluation.baseline=false",
    ]
    command = [sys.executable, "-m", "sam3ft_trainer", "train", "--work-dir", str(folder), *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    logged = [event for event in events if event["event"] == "train_interval"]
    return [event["spans"] | {"wall": event["ts"] - before["ts"]} for before, event in itertools.pairwise(logged)]


def judge(intervals: list[dict[str, float]], *, every: int) -> dict[str, object]:
    """Return seconds by span and step, and the share of everything but forward, backward and optimizer.

    The denominator is the wall clock between two log lines, so that nothing outside a span is forgotten. The first
    interval, with the start of loader and caches, has no line before it and is left out.
    """
    shares = [1 - sum(spans.get(name, 0.0) for name in WORK) / spans["wall"] for spans in intervals]
    names = sorted({name for spans in intervals for name in spans})
    seconds = {name: round(median(spans.get(name, 0.0) / every for spans in intervals), 5) for name in names}
    step_s = seconds["wall"]
    return {
        "seconds_per_step": seconds,
        "step_s": round(step_s, 4),
        "overhead_share": round(median(shares), 5),
        "target": TARGET_SHARE,
        "reached": median(shares) < TARGET_SHARE and step_s >= LEAST_STEP_S,
    }


if __name__ == "__main__":
    main()
