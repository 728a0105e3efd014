"""A queue of keys: each key once, never two workers on one key, later, slower after failures, and fair.

`Schedule` holds the rules and is driven with a clock; `WorkQueue` adds the waiting.
"""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

FIRST_BACKOFF_S = 0.5
"""Seconds after the first failure of a key; doubled by each further one."""
LAST_BACKOFF_S = 120.0
"""Longest back-off."""
LAST_OUTAGE_BACKOFF_S = 15.0
"""Longest back-off while the API server is not well: when it is, no run should wait for minutes."""
BURST = 12.0
"""Times that one key is taken at once before it is slowed down: what an ordinary start of a run needs."""
RATE_PER_S = 2.0
"""Times a second that one key is taken after that; a key that changes all the time waits, others do not."""
_SLOW_EVERY = 8
"""Every so many takes, one comes from the slow lane although the quick one has keys."""
_SPARE = 64
"""Times that may be out of date, besides one for each key, before all such are thrown away."""


@dataclass(slots=True)
class _Key:
    """What is known of one key; forgotten when there is nothing to remember."""

    due_s: float | None = None
    is_ready: bool = False
    is_taken: bool = False
    is_dirty: bool = False
    is_slow: bool = False
    failures: int = 0
    tokens: float = BURST
    tokens_s: float = 0.0


class Schedule:
    """The rules; not safe for threads by itself. Time is what the caller says, in monotonic seconds."""

    def __init__(self) -> None:
        """Begin empty."""
        self._keys: dict[str, _Key] = {}
        self._quick: deque[str] = deque()
        self._slow: deque[str] = deque()
        self._later: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._takes = itertools.count(1)

    def num_due(self, *, now_s: float) -> int:
        """Return how many keys could be taken now."""
        self._ripen(now_s)
        return len(self._quick) + len(self._slow)

    def add(self, key: str, *, now_s: float, after_s: float = 0.0, is_slow: bool = False) -> None:
        """Ask for a key to be taken, not before `after_s` seconds have passed.

        Asked for several times, it is taken at the earliest of them. A key that has failed waits for its back-off
        whatever else asks for it, and one that is taken now is taken again afterwards.

        Args:
            key: what to work on.
            now_s: the time.
            after_s: seconds to wait.
            is_slow: it can wait behind the others, as what a slow look at everything asks for.
        """
        known = self._keys.setdefault(key, _Key(tokens_s=now_s))
        if known.is_ready or (known.is_taken and known.is_dirty and after_s <= 0):
            return
        if known.is_taken and after_s <= 0:
            known.is_dirty = True
            return
        if known.failures and not known.is_taken and known.due_s is not None:
            return
        due_s = now_s + after_s
        if known.due_s is None or due_s < known.due_s:
            known.is_slow = is_slow
            self._set_due(key, known, due_s)

    def take(self, *, now_s: float) -> str | None:
        """Return a key to work on, or None when none is due; `done` must follow."""
        self._ripen(now_s)
        lane = self._slow if not self._quick or (self._slow and next(self._takes) % _SLOW_EVERY == 0) else self._quick
        if not lane:
            return None
        key = lane.popleft()
        known = self._keys[key]
        known.is_ready, known.is_taken = False, True
        known.tokens -= 1.0
        return key

    def done(
        self,
        key: str,
        *,
        now_s: float,
        failed: bool = False,
        again_s: float | None = None,
        longest_s: float = LAST_BACKOFF_S,
    ) -> None:
        """Give a key back.

        Args:
            key: as taken.
            now_s: the time.
            failed: it is taken again after a back-off that doubles.
            again_s: it is taken again after so many seconds at the latest; None waits for `add`.
            longest_s: of the back-off.
        """
        known = self._keys[key]
        known.is_taken = False
        was_dirty, known.is_dirty, known.is_slow = known.is_dirty, False, False
        if failed:
            known.failures += 1
            known.due_s = None
            backoff_s = min(longest_s, FIRST_BACKOFF_S * 2 ** min(known.failures - 1, 16))
            self._set_due(key, known, now_s + max(backoff_s, again_s or 0.0))
            return
        known.failures = 0
        if was_dirty:
            known.due_s = None
            self._set_due(key, known, now_s)
        elif again_s is not None and (known.due_s is None or now_s + again_s < known.due_s):
            self._set_due(key, known, now_s + again_s)

    def forget(self, key: str) -> None:
        """Drop what is remembered of a key that is neither taken nor asked for; else nothing happens."""
        known = self._keys.get(key)
        if known is not None and not (known.is_taken or known.is_ready or known.due_s is not None):
            del self._keys[key]

    def next_s(self) -> float | None:
        """Return when the next key is due; None when none is asked for."""
        return self._later[0][0] if self._later else None

    def _set_due(self, key: str, known: _Key, due_s: float) -> None:
        known.due_s = due_s
        heapq.heappush(self._later, (due_s, next(self._order), key))
        # Every look asks for one in ten minutes, and most are looked at sooner: what is out of date would pile up.
        if len(self._later) > 2 * len(self._keys) + _SPARE:
            self._later = [entry for entry in self._later if self._is_wanted(entry)]
            heapq.heapify(self._later)

    def _is_wanted(self, entry: tuple[float, int, str]) -> bool:
        known = self._keys.get(entry[2])
        return known is not None and known.due_s == entry[0]

    def _ripen(self, now_s: float) -> None:
        """Move keys that are due to the lanes, unless they are taken or have been taken too often."""
        while self._later and self._later[0][0] <= now_s:
            due_s, _, key = heapq.heappop(self._later)
            known = self._keys.get(key)
            if known is None or known.due_s != due_s:
                continue  # it was asked for at an earlier time since
            known.due_s = None
            if known.is_taken:
                known.is_dirty = True
                continue
            known.tokens = min(BURST, known.tokens + (now_s - known.tokens_s) * RATE_PER_S)
            known.tokens_s = now_s
            if known.tokens < 1.0:
                self._set_due(key, known, now_s + (1.0 - known.tokens) / RATE_PER_S)
                continue
            known.is_ready = True
            (self._slow if known.is_slow else self._quick).append(key)


class WorkQueue:
    """A `Schedule` for many threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty and open."""
        self._schedule = Schedule()
        self._clock = clock
        self._changed = threading.Condition()
        self._is_closed = False
        self._taken: dict[str, float] = {}

    def add(self, key: str, *, after_s: float = 0.0, is_slow: bool = False) -> None:
        """Ask for a key; see `Schedule.add`."""
        with self._changed:
            self._schedule.add(key, now_s=self._clock(), after_s=after_s, is_slow=is_slow)
            self._changed.notify()

    def take(self) -> str | None:
        """Wait for a key and return it; None when the queue has been closed."""
        with self._changed:
            while not self._is_closed:
                now_s = self._clock()
                key = self._schedule.take(now_s=now_s)
                if key is not None:
                    self._taken[key] = now_s
                    if self._schedule.num_due(now_s=now_s):
                        self._changed.notify()
                    return key
                next_s = self._schedule.next_s()
                self._changed.wait(None if next_s is None else max(0.0, next_s - now_s))
            return None

    def done(
        self, key: str, *, failed: bool = False, again_s: float | None = None, longest_s: float = LAST_BACKOFF_S
    ) -> None:
        """Give a key back; see `Schedule.done`."""
        with self._changed:
            self._taken.pop(key, None)
            self._schedule.done(key, now_s=self._clock(), failed=failed, again_s=again_s, longest_s=longest_s)
            self._changed.notify()

    def forget(self, key: str) -> None:
        """Drop what is remembered of a key; see `Schedule.forget`."""
        with self._changed:
            self._schedule.forget(key)

    def close(self) -> None:
        """Give out no key any more; whoever waits gets None."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def depth(self) -> int:
        """Return how many keys wait for a worker."""
        with self._changed:
            return self._schedule.num_due(now_s=self._clock())

    def oldest_taken_s(self) -> float:
        """Return for how long the slowest worker has been at its key; 0 when none is at work."""
        with self._changed:
            return max((self._clock() - since_s for since_s in self._taken.values()), default=0.0)
