"""Series of the resources, read from their status at each scrape, so that they go with their resource.

Runs of SLURM sites also have the series that coordinators show of the runs of a cluster, under the same names, so that
one dashboard serves both: no Prometheus reaches a coordinator behind a login node, but its agent tells the status how
far the run is. What a status does not hold (terms of the loss, ranks, durations) has no series there.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.views import epoch_s

_JOB = ("namespace", "job_name")

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
    ("sam3ft_job_last_step_timestamp_seconds", "When the last step finished.", ("progress", "lastStepTime")),
    ("sam3ft_job_checkpoint_timestamp_seconds", "When the newest commit was made.", ("checkpoint", "time")),
    ("sam3ft_job_goodput_ratio", "Kept training time over all time since the start.", ("goodput", "ratio")),
    ("sam3ft_job_nodes_desired", "Nodes wanted now.", ("workers", "desired")),
    ("sam3ft_job_nodes_ready", "Nodes that take part now.", ("workers", "ready")),
    ("sam3ft_job_processes", "Processes that take part now, one for each GPU.", ("workers", "world")),
)

_RUNNING_VALUES = (
    ("sam3ft_job_eta_seconds", "Estimated seconds to the end.", ("progress", "etaSeconds")),
    ("sam3ft_job_images_per_second", "Images per second, all workers.", ("progress", "imagesPerSecond")),
)
"""A status keeps its newest figures; of a run that waits or is over these say nothing."""
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


@dataclass(frozen=True, slots=True)
class _Run:
    """A resource as its series need it: read once, because there may be thousands."""

    labels: tuple[str, str]
    spec: Mapping[str, Any]
    status: Mapping[str, Any]

    @classmethod
    def of(cls, resource: Mapping[str, Any]) -> Self:
        metadata = _part(resource, "metadata")
        labels = str(metadata.get("namespace") or ""), str(metadata.get("name") or "")
        return cls(labels, _part(resource, "spec"), _part(resource, "status"))

    @property
    def phase(self) -> str:
        return str(self.status.get("phase") or Phase.PENDING.value)

    @property
    def backend(self) -> str:
        return str(self.spec.get("backend") or "")


class RunMetrics(Collector):
    """Series of the resources."""

    def __init__(self, resources: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Keep where the resources are read."""
        self._resources = resources

    def collect(self) -> Iterator[Metric]:
        """Yield the series; a run has one series of its phase, the present one."""
        found = [_Run.of(resource) for resource in self._resources()]
        yield from _phases(found)
        for value in _VALUES:
            yield _family(found, *value)
        running = [run for run in found if run.phase == Phase.RUNNING]
        for value in _RUNNING_VALUES:
            yield _family(running, *value)
        restarts = CounterMetricFamily("sam3ft_job_restarts", "Counted restarts since the last retry.", labels=_JOB)
        lost = CounterMetricFamily("sam3ft_job_lost_seconds", "Seconds lost, by cause.", labels=(*_JOB, "cause"))
        for run in found:
            restarts.add_metric(run.labels, _number(run.status.get("restarts")) or 0.0)
            for cause, seconds in _part(_part(run.status, "goodput"), "lostSeconds").items():
                lost.add_metric((*run.labels, str(cause)), _number(seconds) or 0.0)
        yield from (restarts, lost, _problems(found))
        yield from _on_sites(running)


def _problems(found: list[_Run]) -> Metric:
    family = GaugeMetricFamily(
        "sam3ft_job_problem", "1 for each condition that is not as it should be.", labels=(*_JOB, "type", "reason")
    )
    for run in found:
        conditions = run.status.get("conditions")
        for condition in conditions if isinstance(conditions, list) else ():
            if not isinstance(condition, dict):
                continue
            kind = str(condition.get("type") or "")
            if condition.get("status") in _BAD.get(kind, ()):
                family.add_metric((*run.labels, kind, str(condition.get("reason") or "")), 1.0)
    return family


def _phases(found: list[_Run]) -> Iterator[Metric]:
    tally = Tally((run.phase, run.backend) for run in found)
    phase = GaugeMetricFamily("sam3ft_job_phase", "1 for the present phase.", labels=(*_JOB, "phase"))
    info = GaugeMetricFamily("sam3ft_job_info", "Always 1; what the run is.", labels=(*_JOB, "backend", "task", "site"))
    for run in found:
        phase.add_metric((*run.labels, run.phase), 1.0)
        more = str(run.spec.get("task") or ""), str(_part(run.spec, "slurm").get("site") or "")
        info.add_metric((*run.labels, run.backend, *more), 1.0)
    jobs = GaugeMetricFamily("sam3ft_jobs", "Resources, by phase and backend.", labels=("phase", "backend"))
    for labels, count in sorted(tally.items()):
        jobs.add_metric(labels, count)
    yield from (jobs, phase, info)


def _family(found: Iterable[_Run], name: str, text: str, path: tuple[str, str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=_JOB)
    read = epoch_s if name.endswith("_timestamp_seconds") else _number
    part, field = path
    for run in found:
        number = read(_part(run.status, part).get(field))
        if number is not None:
            family.add_metric(run.labels, number)
    return family


def _on_sites(running: Iterable[_Run]) -> Iterator[Metric]:
    """Yield the series of runs on sites while they run, as a coordinator's are there while its run trains."""
    found = [run for run in running if run.backend == "slurm"]
    if not found:
        return
    for value in _SITE_VALUES:
        yield _family(found, *value)
    loss = GaugeMetricFamily("sam3ft_train_loss", "Last finite loss.", labels=(*_JOB, "component"))
    best = GaugeMetricFamily("sam3ft_train_best_metric", "Best value of the metric.", labels=(*_JOB, "name"))
    for run in found:
        if (number := _number(_part(run.status, "progress").get("loss"))) is not None:
            loss.add_metric((*run.labels, "total"), number)
        told = _part(run.status, "best")
        if (number := _number(told.get("value"))) is not None:
            best.add_metric((*run.labels, str(told.get("metric") or "")), number)
    yield from (loss, best)


def _part(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object within another; an empty one where there is none, whatever there is."""
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
