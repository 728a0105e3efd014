"""Keeping a run's log lines beside its checkpoints while it trains, in a thread of its own; and its report at the end.

The machine of rank 0 may be gone when somebody asks, and the next attempt may train on another one, whose event log
begins anew. Nothing of the training waits for this, and nothing fails by it: what could not be kept is told as an
event, and tried again.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import orjson

from sam3ft_trainer.evaluate.report.build import SCORES
from sam3ft_trainer.store.kept_report import PAGE, Keeping, read_events
from sam3ft_trainer.store.objects import with_patience

EVERY_S = 60.0
"""The log is kept at least so often, and whenever a commit is durable."""
LAST_ACT_S = 2.0
"""How long the end of a worker waits for its last lines."""
END_OUTAGE_S = 30.0
"""How long scores and page are tried for, at the end of the run."""


class Chronicle:
    """Keeps the log of one incarnation, on rank 0."""

    def __init__(self, keeping: Keeping, tell: Callable[..., None], *, before: Callable[[Keeping], None]) -> None:
        """Begin to keep.

        Args:
            keeping: where, and from which byte of the log on.
            tell: takes the name of an event and its fields, from any thread.
            before: keeps what is known at the start, once, in the thread; raises as a store does.
        """
        self._keeping, self._tell, self._before = keeping, tell, before
        self._wakes, self._ends = threading.Event(), threading.Event()
        self._has_begun = self._has_failed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="chronicle", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """Keep soon what has been logged until now; returns at once."""
        self._wakes.set()

    def keep(self) -> bool:
        """Keep what has been logged until now; False, and an event, when that fails."""
        with self._lock:
            try:
                if not self._has_begun:
                    self._before(self._keeping)
                    self._has_begun = True
                self._keeping.keep_log()
            except Exception as error:  # noqa: BLE001 - edge of the thread: the run does not depend on it
                self._failed(error)
                return False
        self._has_failed = False
        return True

    def whole_log(self) -> bytes:
        """Return the log of the whole run: this machine's, or the kept one where that tells of more starts."""
        here = self._keeping.log.read_bytes()
        try:
            return fuller(here, read_events(self._keeping.store) if self.keep() else b"")
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(error)
            return here

    def keep_scores(self, scores: Path) -> None:
        """Keep the scores of the end; an event when that fails."""
        self._keep(SCORES, scores)

    def keep_page(self, page: Path) -> None:
        """Keep the finished report; an event when that fails."""
        self._keep(PAGE, page)

    def _keep(self, name: str, path: Path) -> None:
        try:
            content = path.read_bytes()
            with_patience(lambda: self._keeping.keep(name, content), outage_s=END_OUTAGE_S)
        except Exception as error:  # noqa: BLE001 - the run is complete, whatever becomes of this
            self._failed(error)

    def close(self, within_s: float = LAST_ACT_S) -> None:
        """Keep the last lines, and wait for that at most so many seconds."""
        self._ends.set()
        self._wakes.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        while not self._ends.is_set():
            self.keep()
            self._wakes.wait(EVERY_S)
            self._wakes.clear()
        self.keep()

    def _failed(self, error: Exception) -> None:
        """Tell the first of several failures in a row."""
        if not self._has_failed:
            self._tell("events_not_kept", message=str(error))
        self._has_failed = True


def fuller(here: bytes, kept: bytes) -> bytes:
    """Return the one of two logs of a run that tells of more starts; the first, when they tell of as many."""
    return kept if _starts(kept) > _starts(here) else here


def _starts(log: bytes) -> int:
    return sum(1 for line in log.splitlines() if _name(line) in {"started", "resumed"})


def _name(line: bytes) -> str:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return ""
    return str(event.get("event", "")) if isinstance(event, dict) else ""
