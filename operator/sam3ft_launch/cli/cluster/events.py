"""`sam3ft events`: what was decided about a run, and what its pods and Jobs are warned about."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from sam3ft_api.text import without_controls
from sam3ft_launch.cli.cluster.place import ClusterPlace
from sam3ft_launch.cli.output import OutputFormat, console, emit
from sam3ft_launch.kubernetes.event_time import last_seen


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event for people.

    Attributes:
        time: when it was last seen, RFC 3339.
        type: Normal or Warning.
        reason: CamelCase word.
        about: kind and name of the object.
        message: one sentence.
        count: how often it was seen.
    """

    time: str
    type: str
    reason: str
    about: str
    message: str
    count: int


def show(place: ClusterPlace, run: str | None, *, output: OutputFormat) -> None:
    """Print the events of a run, oldest first; a cluster keeps them for about an hour.

    Raises:
        InvalidConfig, TransientError: as `ClusterRuns`.
    """
    runs, found = place.find(run)
    lines = sorted((event_line(event) for event in runs.events(found)), key=lambda line: (line.time, line.reason))
    if output is OutputFormat.JSON:
        for line in lines:
            emit(event="event", **asdict(line))
        return
    if not lines:
        print(f"there are no events about {found.name}; a cluster keeps them for about an hour")
        return
    table = Table("LAST SEEN", "TYPE", "REASON", "ABOUT", "MESSAGE", box=None, pad_edge=False)
    for line in lines:
        again = f" (x{line.count})" if line.count > 1 else ""
        table.add_row(line.time, line.type, line.reason, line.about, line.message + again)
    console().print(table)


def event_line(event: Mapping[str, Any]) -> EventLine:
    """Return an event as the server sends it, in the form of both of its API groups, without control characters."""
    about, series = event.get("involvedObject") or {}, event.get("series") or {}
    return EventLine(
        time=last_seen(event)[:19] + "Z",
        type=_word(event.get("type")),
        reason=_word(event.get("reason")),
        about=_word(f"{about.get('kind', '')}/{about.get('name', '')}"),
        message=_word(event.get("message")),
        count=int(series.get("count") or event.get("count") or 1),
    )


def _word(text: object) -> str:
    return " ".join(without_controls(str(text or "")).split())
