"""Output of the launcher, written by threads: a reader who stops reading must not hold up the launcher."""

import os
import queue
import threading
from pathlib import Path

_POLL_S = 0.1
_BLOCK_BYTES = 64 * 1024


class Follower:
    """Copies what is appended to a rank's log to the launcher's own output."""

    def __init__(self, path: Path, *, start: int, descriptor: int = 1) -> None:
        """Begin to follow at the byte `start`; `descriptor` defaults to standard output."""
        self._path = path
        self._offset = start
        self._descriptor = descriptor
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def end(self, *, within_s: float) -> None:
        """Copy what is left; gives up after `within_s` seconds, as when nobody reads the output."""
        self._ending.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        try:
            while not self._ending.wait(_POLL_S):
                self._copy()
            self._copy()
        except OSError:
            return  # nobody reads any more; the log file keeps everything

    def _copy(self) -> None:
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                while block := log.read(_BLOCK_BYTES):
                    _write_all(self._descriptor, block)
                    self._offset += len(block)
        except FileNotFoundError:
            return


class Speaker:
    """Prints lines for people on standard error."""

    def __init__(self, *, descriptor: int = 2) -> None:
        """Begin; `descriptor` defaults to standard error."""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._descriptor = descriptor
        self._thread = threading.Thread(target=self._run, name="speaker", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Print `text` behind the launcher's name; returns at once."""
        self._lines.put(text)

    def end(self, *, within_s: float) -> None:
        """Print what is left; gives up after `within_s` seconds."""
        self._lines.put(None)
        self._thread.join(within_s)

    def _run(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                _write_all(self._descriptor, f"launcher: {line}\n".encode(errors="replace"))
        except OSError:
            return  # nobody reads any more; the termination message keeps the end


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
