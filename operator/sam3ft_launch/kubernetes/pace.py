"""How often, and by whose clock: the rate of requests, and the time as the API server counts it."""

import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime


class TokenBucket:
    """Bounds how often something happens; safe for many threads."""

    def __init__(self, rate_per_s: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin full.

        Args:
            rate_per_s: tokens that come back in a second.
            burst: tokens that can be saved up.
            clock: monotonic seconds.
        """
        self._rate_per_s, self._burst, self._clock = rate_per_s, burst, clock
        self._tokens, self._at_s = burst, clock()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take one token and return the seconds to wait until it is there."""
        with self._lock:
            now_s = self._clock()
            # Time may stand still here, after `pause`: then the moment at which tokens count again lies ahead.
            self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._at_s) * self._rate_per_s)
            ahead_s = max(0.0, self._at_s - now_s)
            self._at_s = max(self._at_s, now_s)
            self._tokens -= 1.0
            return ahead_s + max(0.0, -self._tokens / self._rate_per_s)

    def try_take(self) -> bool:
        """Take one token if there is one."""
        with self._lock:
            now_s = self._clock()
            self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._at_s) * self._rate_per_s)
            self._at_s = max(self._at_s, now_s)
            if self._tokens < 1.0 or self._at_s > now_s:
                return False
            self._tokens -= 1.0
            return True

    def pause(self, seconds: float) -> None:
        """Give no token for so long."""
        with self._lock:
            self._at_s = max(self._at_s, self._clock() + seconds)


class ServerClock:
    """Seconds since the epoch as the API server counts them, from the dates of its answers."""

    def __init__(self) -> None:
        """Believe this machine's clock until the server has spoken."""
        self._offset_s = 0.0

    def now_s(self) -> float:
        """Return the server's time; within about a second."""
        return time.time() + self._offset_s

    def told(self, date: str | None) -> None:
        """Learn from the Date of an answer, which has whole seconds; a smaller difference is none."""
        try:
            offset_s = parsedate_to_datetime(date or "").timestamp() + 0.5 - time.time()
        except (TypeError, ValueError):
            return
        self._offset_s = offset_s if abs(offset_s) > 1.5 else 0.0
