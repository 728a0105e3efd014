"""Measures of the steps for curves: how long they take, who waits for what, memory, and the share of the peak."""

import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sam3ft_api import limits
from sam3ft_api.worker import STEP_BOUNDS_S
from sam3ft_trainer.run.gpu_watch import GpuWatch


class Meter:
    """Counts the steps of one process of one rank; what it holds ends with the process, as counters may.

    A step lasts from the end of the one before to its own, with the wait for its images and without evaluations and
    saves. With CUDA the loop reads each step's numbers a step late, so that steps end at the pace of the device.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        ideal_image_s: float | None = None,
        watch: GpuWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without a step.

        Args:
            device: of this rank.
            ideal_image_s: an image's FLOPs over the peak FLOP/s of one device, s; None when that is not known.
            watch: of the device; None without one.
            clock: monotonic seconds.
        """
        self._watch = watch
        self._device = device
        self._ideal_image_s = ideal_image_s
        self._clock = clock
        self._began_s: float | None = None
        self._counts = [0] * (len(STEP_BOUNDS_S) + 1)
        self._total_s = 0.0
        self._asked, self._images = 0, 0
        self._figures: dict[str, Any] = {}
        self._total_before_s = 0.0
        self._data_wait_s = 0.0
        self._saved: dict[str, Any] = {}

    def begin(self) -> None:
        """The next step begins now; also after whatever is no part of a step."""
        self._began_s = self._clock()

    def ask_step(self, images: int) -> None:
        """A step of `images` images, of all ranks, has been asked of the device."""
        self._asked += 1
        self._images += images

    def end_step(self) -> None:
        """A step ends now, and the next one begins."""
        now_s = self._clock()
        if self._began_s is not None:
            seconds = now_s - self._began_s
            self._counts[bisect_left(STEP_BOUNDS_S, seconds)] += 1
            self._total_s += seconds
        self._began_s = now_s

    def saved(self, fields: Mapping[str, Any]) -> None:
        """Take in the fields of the store's event `checkpoint_committed`."""
        self._saved = {"save_s": fields.get("seconds"), "save_bytes": fields.get("bytes")}

    def share(self, spans: Mapping[str, float], *, rank: int) -> dict[str, Any]:
        """Return this rank's figures of the interval that ends now, as JSON values of `RankFigures`; all ranks call it.

        Args:
            spans: seconds by name since the last call.
            rank: of this process.
        """
        steps, self._asked = max(1, self._asked), 0
        shown: dict[str, Any] = {
            "rank": rank,
            "data_s": spans.get("data", 0.0) / steps,
            "peers_s": spans.get("agree", 0.0) / steps,
            "forward_s": spans.get("forward", 0.0) / steps,
            "resident_bytes": resident_bytes(),
        }
        if self._device.type == "cuda":
            shown["device_bytes"] = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        if self._watch is not None:
            shown |= self._watch.take()
        return shown | {"steps": steps}

    def figures(
        self,
        shares: Sequence[Mapping[str, Any]],
        *,
        grad_norm: float,
        losses: Mapping[str, float],
        scores: Mapping[str, float],
    ) -> dict[str, Any]:
        """Return the fields of `StepFigures` at the end of an interval; rank 0 calls it, once for each.

        Args:
            shares: what `share` has returned on all ranks.
            grad_norm: of the last step.
            losses: of that step, as from `split_terms`.
            scores: the same.
        """
        self._data_wait_s += max((share["data_s"] * share["steps"] for share in shares), default=0.0)
        shown = sorted(shares, key=lambda share: int(share["rank"]))[: limits.MAX_RANKS_SHOWN]
        spent_s, self._total_before_s = self._total_s - self._total_before_s, self._total_s
        images, self._images = self._images, 0
        share_of_peak = None
        if self._ideal_image_s is not None and spent_s > 0 and shares:
            share_of_peak = images * self._ideal_image_s / (spent_s * len(shares))
        self._figures = {
            "grad_norm": grad_norm,
            "losses": dict(losses),
            "scores": dict(scores),
            "data_wait_s": self._data_wait_s,
            "flops_share": share_of_peak,
            "ranks": tuple({name: value for name, value in share.items() if name != "steps"} for share in shown),
        }
        return self.newest()

    def newest(self) -> dict[str, Any]:
        """Return the figures of the last interval, with the times of all steps until now and the newest commit."""
        return {**self._figures, "steps": {"counts": tuple(self._counts), "total_s": self._total_s}, **self._saved}


def split_terms(terms: Mapping[str, float], weighted: Collection[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return what the last layer adds to the loss, and how right it was; other layers' terms are left out.

    Args:
        terms: of a step's loss, by name; one-to-many matching ends in `_o2m`, an earlier layer in `_aux_` and a number.
        weighted: names that have a weight in the loss.
    """
    last = {name: value for name, value in terms.items() if "_aux_" not in name}
    losses = {name: value for name, value in last.items() if name.removesuffix("_o2m") in weighted}
    # Scores of one-to-many matching are weighted as its losses are, so they are no shares of 1.
    scores = {name: value for name, value in last.items() if name not in losses and not name.endswith("_o2m")}
    return losses, scores


def resident_bytes() -> int | None:
    """Return the memory of this process on the host, as the kernel counts it; None where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()
