"""Metrics of the operator in Prometheus' form: of the resources, and of itself."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sam3ft_api.exit_codes import EXIT_RULES
from sam3ft_api.status import Phase
from sam3ft_operator.run_metrics import RunMetrics
from sam3ft_operator.views import epoch_s

KEPT_S = 5.0
"""A scrape within this of another gets the same answer."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LOOK_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_WAIT_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
_REASONS = tuple(dict.fromkeys(rule.reason for rule in EXIT_RULES.values()))
_OTHER = "Other"


class States(Collector):
    """Gauges of the operator itself, read when it is scraped."""

    def __init__(self) -> None:
        """Begin with none."""
        self._read: list[tuple[str, str, tuple[str, ...], bool, Callable[[], Mapping[tuple[str, ...], float]]]] = []

    def add(
        self,
        name: str,
        text: str,
        read: Callable[[], Mapping[tuple[str, ...], float]],
        *,
        labels: tuple[str, ...] = (),
        is_counter: bool = False,
    ) -> None:
        """Add a metric of which `read` gives the value for each tuple of labels."""
        self._read.append((name, text, labels, is_counter, read))

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        for name, text, labels, is_counter, read in self._read:
            family = (CounterMetricFamily if is_counter else GaugeMetricFamily)(name, text, labels=labels)
            for values, value in read().items():
                family.add_metric(list(values), value)
            yield family


class Metrics:
    """All metrics of the operator; safe for many threads."""

    def __init__(self, resources: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Register everything in a registry of its own.

        Args:
            resources: reads the resources.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each of ours, which nobody asks for
        self.registry = CollectorRegistry(auto_describe=False)
        self.states = States()
        self.registry.register(RunMetrics(resources))
        self.registry.register(self.states)
        ProcessCollector(registry=self.registry)
        self._looks = Histogram(
            "sam3ft_reconcile_duration_seconds", "One look at one run.", registry=self.registry, buckets=_LOOK_BUCKETS
        )
        self._errors = Counter("sam3ft_reconcile_errors", "Looks that failed.", registry=self.registry)
        self._requests = Counter(
            "sam3ft_api_requests",
            "Requests to the API server; code 0 is no answer.",
            ("verb", "kind", "code"),
            registry=self.registry,
        )
        self._ended = Counter(
            "sam3ft_attempts_ended", "Attempts that ended, by reason.", ("reason",), registry=self.registry
        )
        for reason in (*_REASONS, _OTHER):
            self._ended.labels(reason)  # from 0 on, or nobody would see the first increase
        self._waits = Histogram(
            "sam3ft_job_queue_wait_seconds",
            "From the submission of an attempt until it runs.",
            registry=self.registry,
            buckets=_WAIT_BUCKETS,
        )
        self._lock = threading.Lock()
        self._kept: tuple[float, bytes] = (float("-inf"), b"")

    def looked(self, seconds: float, *, failed: bool) -> None:
        """Count one look."""
        self._looks.observe(seconds)
        if failed:
            self._errors.inc()

    def requested(self, verb: str, kind: str, code: int) -> None:
        """Count one answer of the API server."""
        self._requests.labels(verb, kind, str(code)).inc()

    def status_written(self, before: Mapping[str, Any], after: Mapping[str, Any], *, now_s: float) -> None:
        """Count what a new status shows for the first time: attempts that ended, and one that runs.

        Args:
            before: the status that was read, as plain JSON.
            after: the one that was written.
            now_s: seconds since the epoch.
        """
        had = {number for number, attempt in _attempts(before).items() if attempt.get("reason")}
        for number, attempt in _attempts(after).items():
            if attempt.get("reason") and number not in had:
                # Somebody else's word would make a series of its own.
                self._ended.labels(attempt["reason"] if attempt["reason"] in _REASONS else _OTHER).inc()
        if after.get("phase") == Phase.RUNNING.value and before.get("phase") in ("Queued", "Starting", "Restarting"):
            newest = max(_attempts(after).items(), default=(0, {}))[1]
            started_s = epoch_s(newest.get("started"))
            if started_s is not None:
                self._waits.observe(max(0.0, now_s - started_s))

    def text(self) -> bytes:
        """Return the answer to a scrape; computed at most every `KEPT_S`, however many ask."""
        with self._lock:
            if time.monotonic() - self._kept[0] >= KEPT_S:
                self._kept = (time.monotonic(), generate_latest(self.registry))
            return self._kept[1]


def _attempts(status: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    found = status.get("attempts")
    return {
        attempt["n"]: attempt
        for attempt in (found if isinstance(found, list) else [])
        if isinstance(attempt, Mapping) and isinstance(attempt.get("n"), int)
    }
