"""Time and memory of matchers and losses, forward and backward, at the real sizes.

    python -m benchmarks.loss [--objects 10] [--size 1008] [--rounds 3]

One pair of 200 queries, 6 decoder layers, mask logits of 288 px, float32, one CPU thread. `plain` keeps every enlarged
mask until the backward pass, as losses are usually written; `chunks` throws away and recomputes; `points` samples.
Memory is the peak of the process above what it held before the loss (Linux only); the last line is JSON.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss import masks, semantic
from sam3ft_trainer.loss.levels import hungarian_levels, o2m_level, pack_targets
from sam3ft_trainer.loss.matching import start_matching
from sam3ft_trainer.loss.total import compute_loss, local_counts
from sam3ft_trainer.tensors import GlobalCounts, Predictions, Targets

QUERIES, LAYERS, LOGITS = 200, 6, 288
MIB = 1 << 20


def main() -> None:
    """Measure every mode and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10, help="annotated objects of the pair")
    parser.add_argument("--size", type=int, default=1008, help="side of the annotated masks in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _return_memory_at_once()
    targets = make_targets([arguments.objects], arguments.size)
    matched = matched_masks(targets)
    print(f"{arguments.objects} objects, {matched} matched masks (o2o and o2m), {arguments.size} px")
    modes = {
        "plain": LossConfig(mask_chunk=1024),
        "one chunk": LossConfig(mask_chunk=1024),
        "chunks of 8": LossConfig(),
        "chunks of 1": LossConfig(mask_chunk=1),
        "12544 points": LossConfig(mask_points=12544),
    }
    results = {
        name: measure(targets, config, arguments.rounds, plain=name == "plain") for name, config in modes.items()
    }
    results["matching, 16 pairs x 50"] = measure_matching(arguments.rounds)
    for name, (seconds, mebibytes, total) in results.items():
        print(f"{name:24} {seconds:8.3f} s {mebibytes:8.0f} MiB   total {total:.6f}")
    print(
        json.dumps(
            {
                "matched_masks": matched,
                "results": {
                    name: {"s": round(seconds, 4), "peak_mib": round(mebibytes)}
                    for name, (seconds, mebibytes, _) in results.items()
                },
            }
        )
    )


def make_targets(num_boxes: list[int], size: int | None) -> Targets:
    """Return random boxes, with elliptic masks when `size` is given."""
    generator = torch.Generator().manual_seed(0)
    objects = sum(num_boxes)
    boxes_N4 = torch.rand((objects, 4), generator=generator) * torch.tensor([0.6, 0.6, 0.1, 0.1]) + torch.tensor(
        [0.2, 0.2, 0.05, 0.05]
    )
    if size is None:
        return Targets(boxes_N4, torch.tensor(num_boxes))
    axis = (torch.arange(size) + 0.5) / size
    masks_NSS = torch.stack(
        [
            (((axis - x) / w).square()[None, :] + ((axis - y) / h).square()[:, None] < 0.25).to(torch.uint8)
            for x, y, w, h in boxes_N4.tolist()
        ]
    )
    return Targets(boxes_N4, torch.tensor(num_boxes), masks_NSS, torch.ones(objects, dtype=torch.bool))


def make_predictions(targets: Targets) -> Predictions:
    """Return predictions of which some lie on the objects, so that both matchers find partners."""
    generator = torch.Generator().manual_seed(1)
    pairs = len(targets.num_boxes_B)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def boxes() -> Tensor:
        found = torch.rand((LAYERS, pairs, QUERIES, 4), generator=generator) * 0.5 + 0.1
        for pair, own in enumerate(torch.split(targets.boxes_N4, targets.num_boxes_B.tolist())):
            near = own.repeat(4, 1)[:QUERIES]
            found[:, pair, : len(near)] = (near + 0.002 * normal(LAYERS, *near.shape)).clamp(0.001, 0.999)
        return found.requires_grad_()

    has_masks = targets.masks_NSS is not None
    return Predictions(
        logits_LBQ=normal(LAYERS, pairs, QUERIES).requires_grad_(),
        boxes_LBQ4=boxes(),
        presence_LB=normal(LAYERS, pairs).requires_grad_(),
        logits_o2m_LBQ=normal(LAYERS, pairs, QUERIES).requires_grad_(),
        boxes_o2m_LBQ4=boxes(),
        masks_BQhw=normal(pairs, QUERIES, LOGITS, LOGITS).requires_grad_() if has_masks else None,
        masks_o2m_BQhw=normal(pairs, QUERIES, LOGITS, LOGITS).requires_grad_() if has_masks else None,
        semantic_B1hw=normal(pairs, 1, LOGITS, LOGITS).requires_grad_() if has_masks else None,
    )


def matched_masks(targets: Targets) -> int:
    """Return how many predicted masks the two matchers choose."""
    predictions = make_predictions(targets)
    hungarian, o2m = hungarian_levels(predictions, 2.0), o2m_level(predictions, 2.0)
    packed = pack_targets(targets, hungarian.logits_GBQ)
    found = start_matching(hungarian, o2m, packed, LossConfig(), mask_valid_N=targets.mask_valid_N)()
    return sum(len(group.masks.slots) for group in (found.hungarian, found.o2m) if group and group.masks)


def measure(targets: Targets, config: LossConfig, rounds: int, *, plain: bool) -> tuple[float, float, float]:
    """Return the median seconds of forward and backward, the peak MiB above the start, and the total."""
    counts = local_counts(targets, segmentation=True)
    with without_recomputation() if plain else _nothing():
        runs = [_run(make_predictions(targets), targets, counts, config) for _ in range(rounds)]
    return median(run[0] for run in runs), median(run[1] for run in runs), runs[0][2]


def measure_matching(rounds: int) -> tuple[float, float, float]:
    """Return the same for the matching alone, all 11 + 1 levels of 16 pairs of 50 objects; the total is the matches."""
    targets = make_targets([50] * 16, None)
    predictions = make_predictions(targets)
    hungarian, o2m = hungarian_levels(predictions, 2.0), o2m_level(predictions, 2.0)
    packed = pack_targets(targets, hungarian.logits_GBQ)
    seconds, peaks, matches = [], [], 0
    for _ in range(rounds):
        held = _reset_peak()
        started = time.perf_counter()
        found = start_matching(hungarian, o2m, packed, LossConfig(), mask_valid_N=None)()
        seconds.append(time.perf_counter() - started)
        peaks.append((_status("VmHWM") - held) / MIB)
        matches = found.hungarian.every.slots.numel()
    return median(seconds), median(peaks), float(matches)


@contextmanager
def without_recomputation() -> Iterator[None]:
    """Let the losses keep their activations, for comparison."""

    def keep(function: Callable[..., Any], *arguments: Any, **_settings: Any) -> Any:
        return function(*arguments)

    kept = masks.checkpoint, semantic.checkpoint
    masks.checkpoint = semantic.checkpoint = keep  # type: ignore[assignment]
    try:
        yield
    finally:
        masks.checkpoint, semantic.checkpoint = kept


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _run(
    predictions: Predictions, targets: Targets, counts: GlobalCounts, config: LossConfig
) -> tuple[float, float, float]:
    held = _reset_peak()
    started = time.perf_counter()
    total = compute_loss(predictions, targets, counts, config, generator=torch.Generator().manual_seed(0)).total
    total.backward()
    seconds = time.perf_counter() - started
    return seconds, (_status("VmHWM") - held) / MIB, total.item()


def _return_memory_at_once() -> None:
    """Keep glibc from holding freed blocks back, which would count as memory in use."""
    mmap_threshold = -3
    ctypes.CDLL(None).mallopt(mmap_threshold, MIB)


def _reset_peak() -> int:
    """Forget the process' peak and return what it holds now, bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}; this measurement needs Linux")


if __name__ == "__main__":
    main()
