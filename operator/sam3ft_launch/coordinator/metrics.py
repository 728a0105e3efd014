"""The run's metrics, read from the state at a scrape: what has no value now has no series.

Those of single ranks are in `rank_lines`.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from sam3ft_api.exit_codes import EXIT_RULES, ExitCode
from sam3ft_api.worker import STEP_BOUNDS_S, Progress, StepFigures, StepTimes
from sam3ft_launch.coordinator.counts import BEFORE_TRAINING, Counts
from sam3ft_launch.coordinator.roster import NodeState
from sam3ft_launch.coordinator.rounds import Rounds
from sam3ft_launch.coordinator.view import RUN_STATES, run_state

MAX_NAMES = 64
"""Different names of evaluation metrics, terms of the loss and scores of batches that are shown, of each; a later one
is left out for as long as this process lives."""
TRAIN_STATES = ("checking", "loading", "training", "evaluating", "checkpointing", "exporting", "finished", "failed")
"""States of a trainer; any other word is shown as `other`."""
_REASONS = [rule.reason for code, rule in EXIT_RULES.items() if code != ExitCode.SUCCEEDED]
_Family = TypeVar("_Family", GaugeMetricFamily, CounterMetricFamily)
_METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:/@-]{0,63}")

_TRAIN_GAUGES: tuple[tuple[str, str, Callable[[Progress], float | None]], ...] = (
    ("sam3ft_train_step", "Finished optimizer steps.", lambda it: it.step),
    ("sam3ft_train_planned_steps", "Optimizer steps of the whole run.", lambda it: it.total_steps),
    ("sam3ft_train_epoch", "Finished epochs, with fraction.", lambda it: it.epoch),
    ("sam3ft_train_eta_seconds", "Estimated seconds to the end of the run.", lambda it: it.eta_s),
    ("sam3ft_train_images_per_second", "Images per second, all processes together.", lambda it: it.images_per_s),
    ("sam3ft_train_learning_rate", "Learning rate of the transformer.", lambda it: it.learning_rate),
    ("sam3ft_train_world_size", "Processes that train together, as they say.", lambda it: it.world_size),
    ("sam3ft_train_skipped_steps", "Updates skipped for a non-finite number.", lambda it: it.skipped_steps),
    ("sam3ft_train_bad_images", "Images that could not be read.", lambda it: it.bad_images),
    ("sam3ft_train_best_step", "Step of the best evaluation.", lambda it: it.best_step),
    ("sam3ft_train_last_step_timestamp_seconds", "When the last step finished.", lambda it: it.last_step_unix_s),
)

_FIGURES: tuple[tuple[str, str, Callable[[StepFigures], float | None]], ...] = (
    ("sam3ft_train_grad_norm", "Norm of the gradient before clipping.", lambda it: it.grad_norm),
    ("sam3ft_train_flops_utilization_ratio", "FLOPs over the peak of all devices.", lambda it: it.flops_share),
    ("sam3ft_train_checkpoint_duration_seconds", "From copy to commit, of the newest.", lambda it: it.save_s),
    ("sam3ft_train_checkpoint_bytes", "Bytes of the newest commit.", lambda it: it.save_bytes),
)


def finite(value: float | None) -> float | None:
    """Return a number as Prometheus can keep it; None for one that is absent, undefined or out of all bounds."""
    try:
        number = float(value) if value is not None else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


class RunMetrics(Collector):
    """Series of a run; their number is bounded by `limits.MAX_NODES`, `limits.MAX_RANKS_SHOWN` and `MAX_NAMES`."""

    def __init__(self, rounds: Rounds, counts: Counts) -> None:
        """Keep what is read at a scrape.

        Args:
            rounds: the state.
            counts: what has happened.
        """
        self._rounds = rounds
        self._counts = counts
        self._eval_names: set[str] = set()
        self._losses: set[str] = set()
        self._scores: set[str] = set()
        self.now_s = 0.0

    def collect(self) -> Iterator[Metric]:
        """Yield the series as they are at `now_s`, a time of the clock that the state is driven with."""
        yield from self._group()
        yield from self._happened()
        yield from self._nodes()
        yield from self._checkpoint()
        if self._rounds.progress is not None:
            yield from self._train(self._rounds.progress)

    def _group(self) -> Iterator[Metric]:
        rounds, formation = self._rounds, self._rounds.formation
        members = [rounds.nodes[name] for name in (formation.members if formation else ()) if name in rounds.nodes]
        yield _one_of("sam3ft_group_state", "1 for the present state.", RUN_STATES, run_state(rounds))
        yield _gauge("sam3ft_group_attempt", "Number of the attempt.", rounds.settings.attempt)
        yield _gauge("sam3ft_group_round", "Number of the newest round.", formation.number if formation else 0)
        yield _gauge("sam3ft_group_members", "Nodes of the newest round.", len(formation.members) if formation else 0)
        processes = sum(node.hello.processes for node in members)
        yield _gauge("sam3ft_group_processes", "Processes of the members that are connected.", processes)
        states = dict.fromkeys(NodeState, 0)
        for node in rounds.nodes.values():
            states[node.state] += 1
        yield _labelled("sam3ft_group_nodes", "Connected nodes, by state.", "state", states.items())
        bounds = {"min": rounds.settings.min_nodes, "start": rounds.settings.nodes, "max": rounds.settings.max_nodes}
        text = "Nodes that a round needs, that the first one waits for, and that one takes."
        yield _labelled("sam3ft_group_nodes_limit", text, "bound", bounds.items())
        text = "How long ready nodes have waited for a round while nobody ran."
        yield _gauge("sam3ft_group_forming_seconds", text, rounds.forming_s(self.now_s))
        code = rounds.verdict.code if rounds.verdict is not None else int(ExitCode.SUCCEEDED)
        is_over = rounds.verdict is not None or rounds.complete
        yield _gauge("sam3ft_group_exit_code", "Code with which the run ends.", code if is_over else None)

    def _happened(self) -> Iterator[Metric]:
        counts, num_rounds = self._counts, sum(self._counts.rounds.values())
        yield CounterMetricFamily("sam3ft_group_joins", "Launchers that were admitted, again included.", counts.joins)
        yield _counter("sam3ft_group_departures", "Nodes that went before the end.", "cause", counts.departures.items())
        yield _counter("sam3ft_group_rounds", "Rounds that began.", "cause", counts.rounds.items())
        failures = dict.fromkeys(_REASONS, 0) | self._rounds.failures.counts
        yield _counter("sam3ft_group_failures", "Nodes whose workers ended in a round.", "reason", failures.items())
        text = "Connections that got no further."
        yield _counter("sam3ft_group_connections_refused", text, "reason", counts.refused.items())
        text = "From the first ready node to the start of a round."
        yield SummaryMetricFamily("sam3ft_group_start_wait_seconds", text, num_rounds, counts.start_waits_s)

    def _nodes(self) -> Iterator[Metric]:
        nodes = {str(node.hello.slot): node for node in self._rounds.nodes.values()}
        silences = [(slot, max(0.0, self.now_s - node.seen_s)) for slot, node in nodes.items()]
        yield _labelled("sam3ft_group_node_silence_seconds", "Age of a node's newest message.", "slot", silences)
        steps = [(slot, node.step) for slot, node in nodes.items()]
        yield _labelled("sam3ft_group_node_step", "Finished optimizer steps, as the node says.", "slot", steps)
        restarts = [(slot, node.restarts) for slot, node in nodes.items()]
        text = "Starts of a launcher's workers beyond the first."
        yield _counter("sam3ft_group_node_restarts", text, "slot", restarts)

    def _checkpoint(self) -> Iterator[Metric]:
        yield _gauge("sam3ft_train_checkpoint_step", "Step of the newest commit.", self._rounds.commit_step)
        text = "When the newest commit was told to this process."
        yield _gauge("sam3ft_train_checkpoint_timestamp_seconds", text, self._counts.commit_unix_s)

    def _train(self, progress: Progress) -> Iterator[Metric]:
        state = progress.state if progress.state in TRAIN_STATES else "other"
        yield _one_of("sam3ft_train_state", "1 for the present state of rank 0.", (*TRAIN_STATES, "other"), state)
        text = "Optimizer steps done, those done again included."
        yield CounterMetricFamily("sam3ft_train_steps", text, self._counts.steps)
        if state in BEFORE_TRAINING:
            return  # its numbers are still those of nobody, not those of the commit it will go on from
        for name, text, read in _TRAIN_GAUGES:
            yield _gauge(name, text, read(progress))
        figures = progress.figures or StepFigures()
        losses = [("total", progress.loss), *_shown(figures.losses, self._losses, taken="total")]
        yield _labelled("sam3ft_train_loss", "Last finite loss, and its unweighted terms.", "component", losses)
        scores = _shown(figures.scores, self._scores)
        yield _labelled("sam3ft_train_batch_score", "On the newest training images.", "name", scores)
        found = _shown(progress.metrics, self._eval_names)
        yield _labelled("sam3ft_train_eval_metric", "Newest evaluation for the selection.", "name", found)
        best = _shown({progress.best_metric or "": progress.best_value}, self._eval_names)
        yield _labelled("sam3ft_train_best_metric", "Best value of the selecting metric.", "name", best)
        yield from _figures(figures)


def _figures(figures: StepFigures) -> Iterator[Metric]:
    for name, text, read in _FIGURES:
        yield _gauge(name, text, read(figures))
    if figures.steps is not None:
        yield _durations(figures.steps)
    if (waited_s := finite(figures.data_wait_s)) is not None:
        text = "Training waited for images, by the rank that waited longest."
        yield CounterMetricFamily("sam3ft_train_data_wait_seconds", text, waited_s)
    text = "Values of curves that a sink has taken."
    yield _counter("sam3ft_train_sink_values", text, "sink", [(name, it.sent) for name, it in figures.sinks.items()])
    text = "Values of curves that a sink never gets."
    yield _counter("sam3ft_train_sink_lost", text, "sink", [(name, it.lost) for name, it in figures.sinks.items()])


def _durations(steps: StepTimes) -> HistogramMetricFamily:
    family = HistogramMetricFamily("sam3ft_train_step_duration_seconds", "Steps of rank 0, by their duration.")
    total = finite(steps.total_s)
    cumulated = [finite(count) for count in accumulate(steps.counts)]
    if total is not None and None not in cumulated:
        bounds = [*(str(bound) for bound in STEP_BOUNDS_S), "+Inf"]
        family.add_metric([], list(zip(bounds, cumulated, strict=True)), total)  # type: ignore[arg-type]  # no None
    return family


def _shown(
    values: Mapping[str, float | None], admitted: set[str], *, taken: str = ""
) -> list[tuple[str, float | None]]:
    """Return the values whose names are admitted, or can still be: each is a series that Prometheus keeps for weeks."""
    shown = []
    for name, value in values.items():
        is_new = name not in admitted
        if name == taken or (is_new and (len(admitted) >= MAX_NAMES or not _METRIC_NAME.fullmatch(name))):
            continue
        admitted.add(name)
        shown.append((name, value))
    return shown


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, finite(value))


def _labelled(name: str, text: str, label: str, values: Iterable[tuple[str, float | None]]) -> GaugeMetricFamily:
    return _filled(GaugeMetricFamily(name, text, labels=[label]), values)


def _counter(name: str, text: str, label: str, values: Iterable[tuple[str, float | None]]) -> CounterMetricFamily:
    return _filled(CounterMetricFamily(name, text, labels=[label]), values)


def _filled(family: _Family, values: Iterable[tuple[str, float | None]]) -> _Family:
    for word, value in values:
        if (number := finite(value)) is not None:
            family.add_metric([word], number)
    return family


def _one_of(name: str, text: str, words: Iterable[str], present: str) -> GaugeMetricFamily:
    return _labelled(name, text, "state", [(word, float(word == present)) for word in words])
