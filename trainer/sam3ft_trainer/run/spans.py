"""Where the time of a step goes: wall-clock seconds by name, one dictionary, no nesting."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Spans:
    """Adds up seconds by name between two calls of `take`.

    On the CPU a span is the work itself. With CUDA, kernels run behind the Python that asks for them, so a span shows
    where the host waits; during `data` the device may still be at work on what was asked of it before.
    """

    def __init__(self) -> None:
        """Start with empty sums."""
        self._seconds: dict[str, float] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`, also when it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Return the sums so far and start again from zero."""
        seconds, self._seconds = self._seconds, {}
        return seconds
