"""A request to end that a signal handler may make.

`threading.Event` is not for handlers: they run in the main thread between any two of its instructions, also while it
holds the event's lock, which is not re-entrant; the process then waits for itself for ever.
"""

import queue
from contextlib import suppress


class StopSignal:
    """Set once, by a handler or by any thread; any number of threads may wait for it."""

    def __init__(self) -> None:
        """Begin without a request."""
        self._is_set = False
        # Made for this: its `put` may interrupt itself, and its `get`, at any instruction.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Ask to end; asking again changes nothing."""
        self._is_set = True
        self._wakes.put(None)

    def is_set(self) -> bool:
        """Say whether somebody has asked."""
        return self._is_set

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until somebody asks, at most so many seconds; returns whether somebody has."""
        if not self._is_set:
            with suppress(queue.Empty):
                self._wakes.get(timeout=timeout_s)
                self._wakes.put(None)  # for the others that wait
        return self._is_set
