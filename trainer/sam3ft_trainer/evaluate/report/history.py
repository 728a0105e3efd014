"""Reading `events.jsonl`: the story of all attempts as one, without the steps that a resume did again."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson

from sam3ft_trainer.evaluate.report.document import Evaluation, History, Incident, Interval

P = TypeVar("P", Interval, Evaluation)
_SENTENCES = {
    "resumed": "resumed from step {step}",
    "step_skipped": "update {step} was left out: its loss or gradient was not finite (loss: {loss})",
    "cool_down": "the time budget ended the run early: the last step became {total_steps}",
    "stopped": "asked to stop ({kind}); the state of step {step} was saved",
    "stopped_early": "no better value in {evaluations} evaluations: training ended early",
    "chosen": "the weights of step {step} were handed over: {why}",
    "best_unusable": "the commit of the best step, {step}, could not be read again",
    "already_complete": "started again, but the run was complete already",
    "save_skipped": "a checkpoint was skipped because the one before was still being written",
}
"""Events that become incidents, and how they read; fields that an event lacks show as a question mark."""
_FACTS = {
    "model_loaded": ("weights", ("origin", "load", "freeze")),
    "text_cached": ("phrases", ("phrases", "truncated", "freed_bytes")),
}


class _Fields(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def read_history(path: Path) -> History:
    """Return the history of an event log; a missing file gives an empty one."""
    return history_of(path.read_bytes()) if path.is_file() else History()


def history_of(log: bytes) -> History:
    """Return the history of the lines of an event log.

    A torn line, as a kill leaves it, is counted and left out.
    """
    events: list[dict[str, Any]] = []
    unreadable = 0
    for line in log.splitlines():
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            unreadable += 1
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return tell(events).model_copy(update={"unreadable_lines": unreadable})


def tell(events: Iterable[Mapping[str, Any]]) -> History:
    """Return the history of events in the order in which they were written."""
    told = [dict(event) for event in events]
    # Whatever was done before a start from the beginning is no part of the history that followed.
    first = max((at for at, event in enumerate(told) if event["event"] == "started"), default=0)
    ours = told[first:]
    times = [float(event.get("ts", 0.0)) for event in told]
    starts = [event for event in told if event["event"] in {"started", "resumed"}]
    intervals = _kept(_read(Interval, ours, "train_interval"), ours)
    evaluations = _read(Evaluation, ours, "evaluation")
    last_start: Mapping[str, Any] = starts[-1] if starts else {}
    planned = [event["total_steps"] for event in ours if event.get("total_steps") is not None]
    return History(
        started_unix_s=min(times, default=0.0),
        ended_unix_s=max(times, default=0.0),
        attempts=len(starts),
        total_steps=int(planned[-1]) if planned else 0,
        world_size=int(last_start.get("world_size", 1)),
        facts=_facts(told),
        intervals=tuple(intervals),
        evaluations=tuple(_latest(evaluations)),
        incidents=tuple(_incident(event) for event in ours if event["event"] in _SENTENCES),
        skipped_steps=len({event.get("step") for event in ours if event["event"] == "step_skipped"}),
        export=next((_plain(event) for event in reversed(ours) if event["event"] == "exported"), None),
    )


def _read(kind: type[P], events: Iterable[Mapping[str, Any]], name: str) -> list[P]:
    return [kind.model_validate(event) for event in events if event["event"] == name]


def _kept(intervals: list[Interval], events: list[dict[str, Any]]) -> list[Interval]:
    """Drop what was done again: a resume from step s forgets every later step logged before it."""
    kept: list[Interval] = []
    following = iter(intervals)
    for event in events:
        if event["event"] == "resumed":
            kept = [item for item in kept if item.step <= int(event.get("step", 0))]
        elif event["event"] == "train_interval":
            kept.append(next(following))
    return kept


def _latest(evaluations: list[Evaluation]) -> list[Evaluation]:
    """One evaluation for each split, step and kind, the one made last; in step order."""
    latest = {(item.split, item.step, item.baseline): item for item in evaluations}
    return sorted(latest.values(), key=lambda item: (item.step, item.split, not item.baseline))


def _facts(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for event in events:
        label, names = _FACTS.get(event["event"], ("", ()))
        for name in names:
            if event.get(name) not in (None, "", 0):
                facts[f"{label}: {name.replace('_', ' ')}" if name != "load" else label] = str(event[name])
    return facts


def _incident(event: Mapping[str, Any]) -> Incident:
    return Incident(
        unix_s=float(event.get("ts", 0.0)),
        kind=event["event"],
        step=event.get("step"),
        text=_SENTENCES[event["event"]].format_map(_Fields({name: _said(value) for name, value in event.items()})),
    )


def _said(value: Any) -> str:
    """A field as words; null stands for a number that was none."""
    return "not a number" if value is None else str(value)


def _plain(event: Mapping[str, Any]) -> dict[str, str | float | int | None]:
    return {name: value for name, value in event.items() if isinstance(value, str | float | int) or value is None}
