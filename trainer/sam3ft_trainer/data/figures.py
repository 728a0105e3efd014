"""What reading from a store costs, and where bytes came from: counted by threads, added over ranks, told in words."""

import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

BUCKETS_PER_OCTAVE = 4
"""Times are kept as logarithms to base 2 of milliseconds, rounded to quarters: within 9 % of the true one."""
MIB = 1 << 20
COUNTS = (
    "hits",
    "misses",
    "hit_bytes",
    "fetched_bytes",
    "retries",
    "stored",
    "refused",
    "evicted",
    "damaged",
    "changed",
    "cache_failures",
)
"""hits, misses: images found in the node's cache, and not. retries: requests asked for again after an outage, beside
those that the client repeats by itself. stored, refused: misses that the cache took, and that it had no room for.
evicted: files of other data sets that made room. damaged: files whose content did not fit its hash. changed: objects
replaced since they were listed. cache_failures: the disk of the cache failed."""


class Figures:
    """Counts since the last `take`. Methods may be called from any thread and take microseconds."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._times: Counter[int] = Counter()

    def add(self, **counts: int) -> None:
        """Add to some of `COUNTS`."""
        with self._lock:
            self._counts.update(counts)

    def fetched(self, num_bytes: int, seconds: float) -> None:
        """Count one object that came from the store, with the time until it was there."""
        bucket = round(BUCKETS_PER_OCTAVE * math.log2(max(seconds * 1e3, 1e-3)))
        with self._lock:
            self._counts["fetched_bytes"] += num_bytes
            self._times[bucket] += 1

    def take(self) -> dict[str, Any]:
        """Return the counts as JSON values, for `merged`, and start again from zero; {} when nothing was read."""
        with self._lock:
            counts, times = self._counts, self._times
            self._counts, self._times = Counter(), Counter()
        if not counts and not times:
            return {}
        return {"counts": dict(counts), "times": [list(item) for item in sorted(times.items())]}


def merged(shares: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums over ranks.

    Returns:
        every name of `COUNTS`; `fetched`, the number of objects that came from the store; `p50_ms` and `p99_ms`, the
        time of fetching one, None without any. Empty when no rank has read anything from a store.
    """
    counts: Counter[str] = Counter()
    times: Counter[int] = Counter()
    for share in shares:
        counts.update(share.get("counts", {}))
        times.update({int(bucket): int(number) for bucket, number in share.get("times", [])})
    if not counts and not times:
        return {}
    spans = {"fetched": times.total(), "p50_ms": _quantile(times, 0.5), "p99_ms": _quantile(times, 0.99)}
    return {name: counts[name] for name in COUNTS} | spans


def sentence(sums: Mapping[str, Any]) -> str:
    """Return sums of `merged` as one line for people; empty without any. What went wrong is named, zeros are not."""
    if not sums:
        return ""
    parts = [f"{sums['hits']} images from the cache"] if sums["hits"] else []
    if sums["fetched"]:
        parts.append(
            f"{sums['fetched']} fetched ({sums['fetched_bytes'] / MIB:.1f} MiB, p50 {sums['p50_ms']:.0f} ms, "
            f"p99 {sums['p99_ms']:.0f} ms)"
        )
    words = {
        "retries": "asked again after an outage",
        "refused": "not cached for lack of room",
        "evicted": "files of other data sets removed from the cache",
        "damaged": "damaged in the cache and fetched again",
        "changed": "replaced since the start",
        "cache_failures": "failures of the cache's disk",
    }
    parts += [f"{sums[name]} {word}" for name, word in words.items() if sums[name]]
    return "data: " + ", ".join(parts) if parts else ""


def _quantile(times: Counter[int], share: float) -> float | None:
    rank = math.ceil(share * times.total())
    for bucket in sorted(times):
        rank -= times[bucket]
        if rank <= 0:
            return round(float(2.0 ** (bucket / BUCKETS_PER_OCTAVE)), 2)
    return None
