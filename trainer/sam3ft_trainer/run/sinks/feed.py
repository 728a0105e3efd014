"""One sink's thread and the queue before it: what a sink does, or fails to do, never holds up who hands values over.

A value counts once: as sent when the library has taken it, as lost when it will never get it. Whatever goes wrong is
kept as news, which the caller fetches; the thread itself touches no file of the run.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam3ft_trainer.run.sinks.sink import Point, Sink, SinkContext, SinkUnusable

CAPACITY = 1024
"""Points that wait; at a log line in ten seconds, what three hours without a server bring."""
TRIES = 3
"""Times that a point is handed over before it is lost."""
MAX_PAUSE_S = 300.0
"""Longest pause between two tries."""


def pause_s(failures: int) -> float:
    """Return the pause after so many failures in a row, s: it doubles from one second up to `MAX_PAUSE_S`."""
    return min(MAX_PAUSE_S, 2.0 ** min(failures - 1, 10))


@dataclass(frozen=True, slots=True)
class SinkCounts:
    """Values by what became of them.

    Attributes:
        sent: taken by the library.
        lost: never given to it.
    """

    sent: int
    lost: int


class Feed:
    """Feeds one sink; begins with the first point, so that a run without curves never imports the library."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        context: SinkContext,
        *,
        words: Callable[[BaseException], str],
        capacity: int = CAPACITY,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        """Prepare; nothing of the sink is called yet.

        Args:
            name: of the sink.
            sink: called from the thread alone.
            context: for its opening.
            words: makes one line without secrets of an error.
            capacity: points that wait at most.
            pause: seconds after so many failures in a row.
        """
        self.name = name
        self._sink, self._context, self._words, self._pause = sink, context, words, pause
        self._capacity = capacity
        self._changed = threading.Condition()
        self._waiting: deque[Point] = deque()
        self._under_way = 0
        self._sent = self._lost = self._failures = self._in_a_row = 0
        self._news: list[dict[str, Any]] = []
        self._is_closing = self._is_complete = self._is_over = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)

    def offer(self, point: Point) -> None:
        """Let a point wait for its turn; one that finds no place is lost. Never waits for the sink."""
        with self._changed:
            if self._is_over or self._is_closing:
                self._lost += len(point.values)
            elif len(self._waiting) >= self._capacity:
                self._lost += len(point.values)
                self._fail(f"{self._capacity} points wait already; the other end is slower than the run")
            else:
                self._waiting.append(point)
                self._changed.notify()
                if self._thread.ident is None:
                    self._thread.start()

    def lose(self, values: int, why: str) -> None:
        """Count values that are not even offered."""
        with self._changed:
            self._lost += values
            self._fail(why)

    def counts(self) -> SinkCounts:
        """Return what became of the values until now; those that wait are in neither number."""
        with self._changed:
            return SinkCounts(self._sent, self._lost)

    def news(self) -> list[dict[str, Any]]:
        """Return the failures to be told since the last call: the first, second, fourth, eighth and so on."""
        with self._changed:
            news, self._news = self._news, []
            return news

    def finish(self, *, is_complete: bool) -> None:
        """Ask the thread to hand over what waits, without pauses, and to close the sink; returns at once."""
        with self._changed:
            self._is_closing, self._is_complete = True, is_complete
            self._changed.notify_all()

    def leave(self, within_s: float) -> None:
        """Wait for the end that `finish` has asked for, then count what is left as lost, whatever the thread does."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, within_s))
        with self._changed:
            if self._thread.is_alive() and not self._is_over:
                self._abandon("it did not end in the time that a run waits for it")

    def _run(self) -> None:
        try:
            if self._open():
                while (point := self._next()) is not None:
                    self._hand_over(point)
                self._sink.close(is_complete=self._is_complete)
        except BaseException as error:  # noqa: BLE001 - edge of the thread: the run does not depend on it
            with self._changed:
                self._fail(self._words(error))
        with self._changed:
            if not self._is_over:
                self._abandon("")

    def _open(self) -> bool:
        """Open the sink, with pauses between tries; False when it cannot be, or the run ends first."""
        while True:
            try:
                self._sink.open(self._context)
            except SinkUnusable as error:
                with self._changed:
                    self._abandon(self._words(error))
                return False
            except Exception as error:  # noqa: BLE001 - whatever a library raises: it may work later
                if not self._may_try_again(self._words(error)):
                    return False
            else:
                self._in_a_row = 0
                return True

    def _next(self) -> Point | None:
        """Return the oldest point, and wait for one; None when the run ends and none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if self._is_over or not self._waiting:
                return None
            point = self._waiting.popleft()
            self._under_way = len(point.values)
            return point

    def _hand_over(self, point: Point) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                self._sink.scalars(point)
            except Exception as error:  # noqa: BLE001 - whatever a library raises: these values are not there
                if not self._may_try_again(self._words(error), tries_left=tries_left):
                    self._settle(point, is_taken=False)
                    return
            else:
                self._in_a_row = 0
                self._settle(point, is_taken=True)
                return

    def _settle(self, point: Point, *, is_taken: bool) -> None:
        with self._changed:
            if self._is_over:
                return  # counted as lost already, when the run went on without this thread
            self._under_way = 0
            if is_taken:
                self._sent += len(point.values)
            else:
                self._lost += len(point.values)

    def _may_try_again(self, words: str, *, tries_left: int = 1) -> bool:
        """Tell a failure, and pause; False without a try left, and at the end of the run, when there is no time."""
        with self._changed:
            self._in_a_row += 1
            self._fail(words)
            if not tries_left:
                return False
            return not self._changed.wait_for(lambda: self._is_closing, self._pause(self._in_a_row))

    def _abandon(self, words: str) -> None:
        """Give up what is left; the lock is held."""
        left = self._under_way + sum(len(point.values) for point in self._waiting)
        self._is_over, self._under_way = True, 0
        self._waiting.clear()
        self._lost += left
        if words or left:
            not_sent = f"{left} values were not sent" if left else ""
            self._fail("; ".join(part for part in (words, not_sent) if part), is_last=True)

    def _fail(self, words: str, *, is_last: bool = False) -> None:
        """Count a failure, and keep it as news if it is to be told; the lock is held."""
        self._failures += 1
        if is_last or self._failures & (self._failures - 1) == 0:
            told = {"failures": self._failures, "lost": self._lost}
            self._news.append({"sink": self.name, "message": words, **told})
