"""What a sink is, and what it is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class SinkUnusable(Exception):
    """A sink that no further try can open: its library is missing, or it has not been told where to send."""


@dataclass(frozen=True, slots=True)
class SinkContext:
    """Whose curves they are.

    Attributes:
        run: name of the run.
        uid: what tells two runs of one name apart.
        key: 32 hex digits that follow from name and uid, the same in every attempt.
        attempt: from 1.
        project: where the run is filed.
        folder: existing folder of this sink alone; a library writes nowhere else.
        settings: the config document, flat, as texts of bounded length.
    """

    run: str
    uid: str
    key: str
    attempt: int
    project: str
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """The values of one moment.

    Attributes:
        step: finished optimizer steps.
        unix_s: when they were known, seconds since the epoch.
        values: finite numbers by the names that TensorBoard has too, such as `train/loss`.
    """

    step: int
    unix_s: float
    values: Mapping[str, float]


class Sink(Protocol):
    """One library. Every call comes from one thread, in which it may wait; what it raises, it has not taken."""

    def open(self, context: SinkContext) -> None:
        """Import the library and find the run, or make it.

        Raises:
            SinkUnusable: no further try can help; the message says what to do.
            Exception: it may work later.
        """
        ...

    def scalars(self, point: Point) -> None:
        """Hand over the values of one moment.

        Raises:
            Exception: they were not taken.
        """
        ...

    def close(self, *, is_complete: bool) -> None:
        """Hand over what is still under way, and end.

        Args:
            is_complete: the run has ended well, and no further attempt follows.

        Raises:
            Exception: something may be missing at the other end.
        """
        ...
