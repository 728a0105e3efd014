"""Metrics in Prometheus' form. Series of a run are read from the resources at each scrape, so they go with it."""

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sam3ft_api.exit_codes import EXIT_RULES
from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.views import epoch_s

KEPT_S = 5.0
"""A scrape within this of another gets the same answer."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_JOB = ("namespace", "job_name")
_LOOK_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_WAIT_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
_REASONS = frozenset(rule.reason for rule in EXIT_RULES.values())

_BAD: Mapping[str, tuple[str, ...]] = {
    ConditionType.ACCEPTED: ("False",),
    ConditionType.DATASET_READY: ("False",),
    ConditionType.SCHEDULED: ("False",),
    ConditionType.DEGRADED: ("True",),
    ConditionType.BACKEND_REACHABLE: ("False", "Unknown"),
    ConditionType.STALLED: ("True",),
}
"""States of conditions that somebody may have to do something about; a run that waits in a queue is one of them."""
_VALUES = (
    ("sam3ft_job_progress_ratio", "Finished over planned optimizer steps.", ("progress", "ratio"), False),
    ("sam3ft_job_eta_seconds", "Estimated seconds to the end.", ("progress", "etaSeconds"), False),
    ("sam3ft_job_images_per_second", "Images per second, all workers.", ("progress", "imagesPerSecond"), False),
    ("sam3ft_job_last_step_timestamp_seconds", "When the last step finished.", ("progress", "lastStepTime"), True),
    ("sam3ft_job_checkpoint_timestamp_seconds", "When the newest commit was made.", ("checkpoint", "time"), True),
    ("sam3ft_job_goodput_ratio", "Kept training time over all time since the start.", ("goodput", "ratio"), False),
    ("sam3ft_job_nodes_desired", "Nodes wanted now.", ("workers", "desired"), False),
    ("sam3ft_job_nodes_ready", "Nodes that take part now.", ("workers", "ready"), False),
)


class RunMetrics(Collector):
    """Series of the resources."""

    def __init__(self, resources: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Keep where the resources are read."""
        self._resources = resources

    def collect(self) -> Iterator[Metric]:
        """Yield the series; a run has one series of its phase, the present one."""
        found = list(self._resources())
        yield from _phases(found)
        for name, text, path, is_time in _VALUES:
            family = GaugeMetricFamily(name, text, labels=_JOB)
            for resource in found:
                value = _number(_at(resource, "status", *path), is_time=is_time)
                if value is not None:
                    family.add_metric(_labels(resource), value)
            yield family
        restarts = CounterMetricFamily("sam3ft_job_restarts", "Counted restarts since the last retry.", labels=_JOB)
        lost = CounterMetricFamily("sam3ft_job_lost_seconds", "Seconds lost, by cause.", labels=(*_JOB, "cause"))
        for resource in found:
            restarts.add_metric(_labels(resource), _number(_at(resource, "status", "restarts"), is_time=False) or 0.0)
            causes = _at(resource, "status", "goodput", "lostSeconds")
            for cause, seconds in causes.items() if isinstance(causes, dict) else ():
                lost.add_metric([*_labels(resource), str(cause)], _number(seconds, is_time=False) or 0.0)
        yield from (restarts, lost, _problems(found))


def _problems(found: list[Mapping[str, Any]]) -> Metric:
    family = GaugeMetricFamily(
        "sam3ft_job_problem", "1 for each condition that is not as it should be.", labels=(*_JOB, "type", "reason")
    )
    for resource in found:
        conditions = _at(resource, "status", "conditions")
        for condition in conditions if isinstance(conditions, list) else ():
            kind, word = str(_at(condition, "type") or ""), str(_at(condition, "status") or "")
            if word in _BAD.get(kind, ()):
                family.add_metric([*_labels(resource), kind, str(_at(condition, "reason") or "")], 1.0)
    return family


def _phases(found: list[Mapping[str, Any]]) -> Iterator[Metric]:
    tally: Tally[tuple[str, str]] = Tally()
    phase = GaugeMetricFamily("sam3ft_job_phase", "1 for the present phase.", labels=(*_JOB, "phase"))
    info = GaugeMetricFamily("sam3ft_job_info", "Always 1; what the run is.", labels=(*_JOB, "backend", "task"))
    for resource in found:
        word = str(_at(resource, "status", "phase") or Phase.PENDING.value)
        backend = str(_at(resource, "spec", "backend") or "")
        tally[word, backend] += 1
        phase.add_metric([*_labels(resource), word], 1.0)
        info.add_metric([*_labels(resource), backend, str(_at(resource, "spec", "task") or "")], 1.0)
    jobs = GaugeMetricFamily("sam3ft_jobs", "Resources, by phase and backend.", labels=("phase", "backend"))
    for labels, count in sorted(tally.items()):
        jobs.add_metric(list(labels), count)
    yield from (jobs, phase, info)


def _labels(resource: Mapping[str, Any]) -> list[str]:
    return [str(_at(resource, "metadata", "namespace") or ""), str(_at(resource, "metadata", "name") or "")]


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _number(value: Any, *, is_time: bool) -> float | None:
    if is_time:
        return epoch_s(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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
                self._ended.labels(attempt["reason"] if attempt["reason"] in _REASONS else "Other").inc()
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
