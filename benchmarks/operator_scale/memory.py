"""Whether the operator's memory grows with the number of its looks: a storm of them, and a straight line through it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.operator_scale.load import MANAGER, SAY_EVERY_S
from benchmarks.operator_scale.processes import rss_mib
from benchmarks.operator_scale.site import NAMESPACE, Site

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import FINETUNE

LOOKS = "sam3ft_reconcile_duration_seconds_count"
"""The operator's own counter of looks."""
SCRAPE_S = 5.2
"""The operator keeps an answer for 5 s; what is read is never older than a moment."""
MOST_RUNS = 400
ONE_RUN_EVERY_S = 0.55
"""The queue lets one run be looked at twice a second; touching it more often would be no further look."""
WARM_UP = 0.5
"""Share of the looks after which the line begins: buffers, arenas and caches have their size after some thousand."""
BOUND_KIB = 64.0
"""Most KiB by which 1,000 looks may make it grow: 100 runs that train for a week would add less than 400 MiB."""
ONCE_KIB = 2048.0
"""What may come once beside it: the interpreter asks for a MiB at a time, and threads have arenas of their own."""
LEAST_LOOKS = 10_000
"""With fewer, an arena more or less is a slope, and the bound says nothing."""
STALL_S = 120.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory at one moment.

    Attributes:
        looks: that had been taken.
        mib: in RAM.
    """

    looks: float
    mib: float


class _Storm:
    """Touches runs in turn: a label that means nothing changes, and the operator looks."""

    def __init__(self, site: Site, runs: Sequence[str]) -> None:
        self._site, self._runs = site, runs
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._touch, args=(n,), daemon=True) for n in range(2)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30.0)

    def _touch(self, part: int) -> None:
        count = 0
        while not self._stopping.is_set():
            begun_s = time.monotonic()
            count += 1
            for name in self._runs[part::2]:
                if self._stopping.is_set():
                    return
                body = {"metadata": {"annotations": {"bench.sam3ft.dev/touched": str(count)}}}
                try:
                    self._site.api.patch(FINETUNE, NAMESPACE, name, body, manager=MANAGER)
                except ApiProblem:
                    self._stopping.wait(0.5)
            self._stopping.wait(max(0.0, begun_s + ONE_RUN_EVERY_S - time.monotonic()))


def measure_memory(site: Site, runs: Sequence[str], *, looks: int, say: Callable[[str], None]) -> dict[str, float]:
    """Let the operator take so many looks, and return how its memory went.

    Args:
        site: where.
        runs: names of living resources.
        looks: to be taken.
        say: shows a line to whoever waits.

    Raises:
        RuntimeError: no look has been taken for `STALL_S`.
    """
    samples: list[Sample] = []
    begun_s, first = time.monotonic(), site.metric(LOOKS)
    counted: list[tuple[float, float]] = [(begun_s, 0.0)]
    memory: list[tuple[float, float]] = []
    scraped_s = said_s = moved_s = begun_s
    with _Storm(site, runs[:MOST_RUNS]):
        while counted[-1][1] < looks:
            time.sleep(1.0)
            now_s = time.monotonic()
            memory.append((now_s, rss_mib(site.operator.pid)))
            if now_s - scraped_s >= SCRAPE_S:
                scraped_s, taken = now_s, site.metric(LOOKS) - first
                moved_s = now_s if taken > counted[-1][1] else moved_s
                counted.append((now_s, taken))
            if now_s - said_s >= SAY_EVERY_S:
                said_s = now_s
                say(f"memory: {counted[-1][1]:,.0f} of {looks:,} looks, {memory[-1][1]:.1f} MiB")
            if now_s - moved_s > STALL_S:
                raise RuntimeError(f"memory: no look for {STALL_S:g} s")
    samples = [Sample(_looks_at(at_s, counted), mib) for at_s, mib in memory if at_s <= counted[-1][0]]
    kept = [sample for sample in samples if sample.looks >= WARM_UP * looks]
    return {
        "looks": counted[-1][1],
        "seconds": round(counted[-1][0] - begun_s, 1),
        "samples": len(kept),
        "first_mib": round(kept[0].mib, 2),
        "last_mib": round(kept[-1].mib, 2),
        "slope_kib_per_1000_looks": round(slope(kept) * 1024 * 1000, 2),
        "bound_kib_per_1000_looks": round(BOUND_KIB + ONCE_KIB * 1000 / looks, 1),
    }


def _looks_at(at_s: float, counted: Sequence[tuple[float, float]]) -> float:
    """Return how many looks had been taken at a moment, between two readings of the counter."""
    after = next(number for number, (when_s, _) in enumerate(counted) if when_s >= at_s)
    if after == 0:
        return counted[0][1]
    (left_s, left), (right_s, right) = counted[after - 1], counted[after]
    return left + (right - left) * (at_s - left_s) / (right_s - left_s)


def slope(samples: Sequence[Sample]) -> float:
    """Return the MiB that one look adds, by least squares; 0 for fewer than two different counts of looks."""
    count = len(samples)
    if count < 2:
        return 0.0
    mean_looks = sum(sample.looks for sample in samples) / count
    mean_mib = sum(sample.mib for sample in samples) / count
    spread = sum((sample.looks - mean_looks) ** 2 for sample in samples)
    together = sum((sample.looks - mean_looks) * (sample.mib - mean_mib) for sample in samples)
    return together / spread if spread else 0.0
