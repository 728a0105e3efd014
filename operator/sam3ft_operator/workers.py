"""Threads that take keys from the queue and look at runs."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_operator.queue import LAST_BACKOFF_S, LAST_OUTAGE_BACKOFF_S, WorkQueue
from sam3ft_operator.reconcile import Outcome

_log = logging.getLogger(__name__)

STUCK_AFTER_S = 180.0
"""A look that takes longer does not end any more: its requests are bounded, and it makes a few dozen at most."""


class Observed(Protocol):
    """Told of every look."""

    def __call__(self, seconds: float, *, failed: bool) -> None:
        """Take the seconds of a look, and whether it failed."""
        ...


class Workers:
    """A fixed number of threads on one queue."""

    def __init__(
        self,
        queue: WorkQueue,
        reconcile: Callable[[str], Outcome],
        *,
        count: int,
        observed: Observed,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            queue: where keys come from.
            reconcile: looks at one run.
            count: threads.
            observed: told the seconds of each look and whether it failed.
        """
        self._queue, self._reconcile, self._observed = queue, reconcile, observed
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(count)]

    @property
    def is_stuck(self) -> bool:
        """A thread has ended before its time, or does not come back from a look."""
        started = [thread for thread in self._threads if thread.ident is not None]
        return any(not thread.is_alive() for thread in started) or self._queue.oldest_taken_s() > STUCK_AFTER_S

    def start(self) -> None:
        """Start the threads; call it once."""
        for thread in self._threads:
            thread.start()

    def join(self, *, within_s: float) -> bool:
        """Wait until every thread has finished its look, after the queue was closed; False when the time is over."""
        give_up_s = time.monotonic() + within_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, give_up_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (key := self._queue.take()) is not None:
            begun_s = time.monotonic()
            outcome = self._look(key)
            self._observed(time.monotonic() - begun_s, failed=outcome.failed)
            longest_s = LAST_OUTAGE_BACKOFF_S if outcome.is_outage else LAST_BACKOFF_S
            self._queue.done(key, failed=outcome.failed, again_s=outcome.again_s, longest_s=longest_s)
            if outcome.again_s is None and not outcome.failed:
                self._queue.forget(key)

    def _look(self, key: str) -> Outcome:
        try:
            return self._reconcile(key)
        except ApiProblem as problem:
            _log.warning("run %s: %s", key, problem)
            # Conflicts among it: somebody else writes at the same time, and soon will not.
            is_outage = problem.code in (0, 409, 429) or problem.code >= 500
            return Outcome(problem.retry_after_s or None, failed=True, is_outage=is_outage)
        except Exception:  # noqa: BLE001 - see below
            # A defect that one run meets must not end the thread that serves all others.
            _log.exception("run %s: an unexpected error", key)
            return Outcome(None, failed=True)
