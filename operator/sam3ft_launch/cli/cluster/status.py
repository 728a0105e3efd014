"""`sam3ft status` on a cluster: one run in full, or all of a namespace in a table."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from sam3ft_api.status import ConditionType, Phase
from sam3ft_launch.cli.cluster.place import ClusterPlace, none_there
from sam3ft_launch.cli.live import duration, progress_rows
from sam3ft_launch.cli.output import OutputFormat, console, emit, print_rows
from sam3ft_launch.kubernetes.observe import condition_of, last_attempt, observed_of, progress_of
from sam3ft_launch.kubernetes.runs import ClusterRun

_COLUMNS = ("NAME", "PHASE", "STEP", "ETA", "LOSS", "AP", "NODES", "RESTARTS", "AGE", "MESSAGE")


def show(place: ClusterPlace, run: str | None, *, output: OutputFormat) -> None:
    """Print where a run stands, or without a name where every run of the namespace stands.

    Raises:
        InvalidConfig, TransientError: as `ClusterRuns`.
    """
    now = datetime.now(UTC)
    if run is not None:
        _, found = place.find(run)
        _print_one(found, now, output)
        return
    runs = place.runs()
    every = runs.all()
    if output is OutputFormat.JSON:
        for found in every:
            emit(**document(found, now))
    elif not every:
        print(none_there(runs.namespace))
    else:
        console().print(_table(every, now))


def document(run: ClusterRun, now: datetime) -> dict[str, Any]:
    """Return where a run stands as JSON values: the fields that every backend has, and the status as it is stored."""
    observed, attempt = observed_of(run, now=now), last_attempt(run)
    status = run.status
    return {
        "name": run.name,
        "namespace": run.namespace,
        "uid": run.uid,
        "attempt": attempt.n if attempt else 0,
        "phase": run.phase.value,
        "started_unix_s": status.started.timestamp() if status.started else None,
        "places": places(run),
        **{field.name: getattr(observed, field.name) for field in dataclasses.fields(observed)},
        "status": status.model_dump(mode="json", exclude_unset=True),
    }


def places(run: ClusterRun) -> dict[str, str]:
    """Return where a run's files are, by name."""
    status = run.status
    checkpoints = status.checkpoint.uri if status.checkpoint else str((run.spec.get("checkpoint") or {}).get("uri", ""))
    model = status.export.uri if status.export else ""
    return {name: uri for name, uri in (("checkpoints", checkpoints), ("model", model)) if uri}


def _print_one(run: ClusterRun, now: datetime, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        emit(**document(run, now))
        return
    print_rows(_rows(run, now))


def _rows(run: ClusterRun, now: datetime) -> list[tuple[str, str]]:
    status, observed = run.status, observed_of(run, now=now)
    nodes = f", {status.summary.nodes} nodes" if status.summary and status.summary.nodes else ""
    last = last_attempt(run)
    attempt = f"attempt {last.n}" if last else "not started"
    rows = [("run", f"{run.name} (namespace {run.namespace}, {attempt}{nodes})")]
    code = "" if observed.exit_code is None else f", code {observed.exit_code}"
    rows.append(("state", f"{run.phase.value}{code}"))
    if run.message:
        rows.append(("message", run.message))
    trouble = condition_of(run, ConditionType.DEGRADED)
    if trouble is not None and trouble.status == "True" and trouble.message != run.message:
        rows.append(("trouble", f"{trouble.reason}: {trouble.message}"))
    begun = status.started or run.created
    rows.append(("started", f"{begun:%Y-%m-%d %H:%M:%S} UTC, {duration(_lasted_s(run, begun, now))}"))
    rows += _progress_rows(run, observed.restarts)
    for index, end in enumerate(it for it in status.attempts if it.finished is not None):
        said = f"attempt {end.n}: {end.reason}" + ("" if end.exit_code is None else f" ({end.exit_code})")
        rows.append(("" if index else "attempts", said))
    return rows + list(places(run).items())


def _progress_rows(run: ClusterRun, restarts: int) -> list[tuple[str, str]]:
    progress = progress_of(run)
    if progress is None:
        return []
    rows = progress_rows(progress, restarts=restarts, is_over=run.phase.is_final)
    goodput = run.status.goodput
    if goodput is not None and goodput.lost_seconds:
        lost = ", ".join(f"{cause} {duration(seconds)}" for cause, seconds in sorted(goodput.lost_seconds.items()))
        rows.append(("goodput", f"{goodput.ratio:.1%}; lost: {lost}"))
    return rows


def _lasted_s(run: ClusterRun, begun: datetime, now: datetime) -> float:
    ended = condition_of(run, ConditionType.COMPLETE if run.phase is Phase.SUCCEEDED else ConditionType.FAILED)
    until = ended.last_transition_time if run.phase.is_final and ended is not None else now
    return (until - begun).total_seconds()


def _table(runs: list[ClusterRun], now: datetime) -> Table:
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for run in runs:
        summary = run.status.summary
        cells = (summary.step, summary.eta, summary.loss, summary.ap, summary.nodes) if summary else ("",) * 5
        age = duration((now - run.created).total_seconds())
        table.add_row(run.name, run.phase.value, *cells, str(run.status.restarts), age, run.message)
    return table
