"""A thread that ends a worker which makes no progress, and says where it stood."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sam3ft_api.exit_codes import ExitCode


class Watchdog:
    """Ends the process with code 24 when nobody has called `beat` for `limit_s` seconds.

    The stacks of all threads are written first, by C code that needs no lock of the interpreter's, so that a thread
    stuck inside a collective or a kernel shows where it waits.
    """

    def __init__(self, limit_s: float, stacks: Path, last_word: Callable[[str], None]) -> None:
        """Start watching.

        Args:
            limit_s: longest time between two beats, seconds.
            stacks: file that receives the stacks.
            last_word: called with the message before the process ends; writes the worker's result.
        """
        self._limit_s = limit_s
        self._stacks = stacks
        self._last_word = last_word
        self._beat = time.monotonic()
        self._doing = "starting"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, doing: str) -> None:
        """Say that the run is alive and what it does next."""
        self._beat = time.monotonic()
        self._doing = doing

    def close(self) -> None:
        """Stop watching; returns when the thread has ended."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            silent_s = time.monotonic() - self._beat
            if silent_s > self._limit_s:
                self._end(silent_s)

    def _end(self, silent_s: float) -> None:
        with self._stacks.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        self._last_word(
            f"no progress for {silent_s:.0f} s while {self._doing} (runtime.watchdog_s is {self._limit_s:.0f}); "
            f"the stacks of all threads are in {self._stacks}"
        )
        os._exit(int(ExitCode.HUNG))
