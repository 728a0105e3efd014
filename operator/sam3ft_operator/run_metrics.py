"""Series of the resources, read from their status at each scrape, so that they go with their resource.

Runs of SLURM sites also have the series that coordinators show of the runs of a cluster, under the same names, so that
one dashboard serves both: no Prometheus reaches a coordinator behind a login node, but its agent tells the status how
far the run is. What a status does not hold (terms of the loss, ranks, durations) has no series there.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.views import epoch_s

_JOB = ("namespace", "job_name")
_FINAL = frozenset(phase.value for phase in Phase if phase.is_final)

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
    ("sam3ft_job_progress_ratio", "Finished over planned optimizer steps.", ("progress", "ratio")),
    ("sam3ft_job_eta_seconds", "Estimated seconds to the end.", ("progress", "etaSeconds")),
    ("sam3ft_job_images_per_second", "Images per second, all workers.", ("progress", "imagesPerSecond")),
    ("sam3ft_job_last_step_timestamp_seconds", "When the last step finished.", ("progress", "lastStepTime")),
    ("sam3ft_job_checkpoint_timestamp_seconds", "When the newest commit was made.", ("checkpoint", "time")),
    ("sam3ft_job_goodput_ratio", "Kept training time over all time since the start.", ("goodput", "ratio")),
    ("sam3ft_job_nodes_desired", "Nodes wanted now.", ("workers", "desired")),
    ("sam3ft_job_nodes_ready", "Nodes that take part now.", ("workers", "ready")),
    ("sam3ft_job_processes", "Processes that take part now, one for each GPU.", ("workers", "world")),
)

_SITE_VALUES = (
    ("sam3ft_train_step", "Finished optimizer steps.", ("progress", "step")),
    ("sam3ft_train_planned_steps", "Optimizer steps of the whole run.", ("progress", "totalSteps")),
    ("sam3ft_train_epoch", "Finished epochs, with fraction.", ("progress", "epoch")),
    ("sam3ft_train_eta_seconds", "Estimated seconds to the end of the run.", ("progress", "etaSeconds")),
    ("sam3ft_train_images_per_second", "Images per second, all workers.", ("progress", "imagesPerSecond")),
    ("sam3ft_train_last_step_timestamp_seconds", "When the last step finished.", ("progress", "lastStepTime")),
    ("sam3ft_train_world_size", "Processes that train together.", ("workers", "world")),
    ("sam3ft_train_best_step", "Step of the best evaluation.", ("best", "step")),
    ("sam3ft_train_checkpoint_step", "Step of the newest commit.", ("checkpoint", "step")),
    ("sam3ft_train_checkpoint_timestamp_seconds", "When it was told.", ("checkpoint", "time")),
)
"""Of runs on sites: as a coordinator names them, and where the status has them."""


class RunMetrics(Collector):
    """Series of the resources."""

    def __init__(self, resources: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Keep where the resources are read."""
        self._resources = resources

    def collect(self) -> Iterator[Metric]:
        """Yield the series; a run has one series of its phase, the present one."""
        found = list(self._resources())
        yield from _phases(found)
        for value in _VALUES:
            yield _family(found, *value)
        restarts = CounterMetricFamily("sam3ft_job_restarts", "Counted restarts since the last retry.", labels=_JOB)
        lost = CounterMetricFamily("sam3ft_job_lost_seconds", "Seconds lost, by cause.", labels=(*_JOB, "cause"))
        for resource in found:
            restarts.add_metric(_labels(resource), _number(_at(resource, "status", "restarts"), is_time=False) or 0.0)
            causes = _at(resource, "status", "goodput", "lostSeconds")
            for cause, seconds in causes.items() if isinstance(causes, dict) else ():
                lost.add_metric([*_labels(resource), str(cause)], _number(seconds, is_time=False) or 0.0)
        yield from (restarts, lost, _problems(found))
        yield from _on_sites(found)


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
    info = GaugeMetricFamily("sam3ft_job_info", "Always 1; what the run is.", labels=(*_JOB, "backend", "task", "site"))
    for resource in found:
        word = str(_at(resource, "status", "phase") or Phase.PENDING.value)
        backend = str(_at(resource, "spec", "backend") or "")
        tally[word, backend] += 1
        phase.add_metric([*_labels(resource), word], 1.0)
        more = (str(_at(resource, "spec", *path) or "") for path in (("task",), ("slurm", "site")))
        info.add_metric([*_labels(resource), backend, *more], 1.0)
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


def _family(found: Iterable[Mapping[str, Any]], name: str, text: str, path: tuple[str, ...]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=_JOB)
    for resource in found:
        number = _number(_at(resource, "status", *path), is_time=name.endswith("_timestamp_seconds"))
        if number is not None:
            family.add_metric(_labels(resource), number)
    return family


def _on_sites(resources: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Yield the series of runs on sites until they are over, as a coordinator's end with its run."""
    found = [
        resource
        for resource in resources
        if _at(resource, "spec", "backend") == "slurm" and _at(resource, "status", "phase") not in _FINAL
    ]
    if not found:
        return
    for value in _SITE_VALUES:
        yield _family(found, *value)
    loss = GaugeMetricFamily("sam3ft_train_loss", "Last finite loss.", labels=(*_JOB, "component"))
    best = GaugeMetricFamily("sam3ft_train_best_metric", "Best value of the metric.", labels=(*_JOB, "name"))
    for resource in found:
        status = _at(resource, "status")
        if (number := _number(_at(status, "progress", "loss"), is_time=False)) is not None:
            loss.add_metric([*_labels(resource), "total"], number)
        if (number := _number(_at(status, "best", "value"), is_time=False)) is not None:
            best.add_metric([*_labels(resource), str(_at(status, "best", "metric") or "")], number)
    yield from (loss, best)
