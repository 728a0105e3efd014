"""One program of the control plane as a process: it dies with its parent, and its output goes to a file."""

import ctypes
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

STOP_S = 10.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Program:
    """A process that can be stopped, killed, paused and started again with the same arguments."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        """Prepare; nothing is started."""
        self.name, self.log = name, log
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running process; raises RuntimeError when there is none."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """The process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process, also again after `stop`; its output is appended to the log."""
        self._output = self.log.open("ab")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call of prctl, no lock
        )

    def stop(self, *, kill: bool = False) -> None:
        """End the process and wait for it; one that does not end within 10 s is killed."""
        process, self._process = self._process, None
        if process is not None:
            self.send(process, signal.SIGCONT)
            self.send(process, signal.SIGKILL if kill else signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.send(process, signal.SIGKILL)
                process.wait()
        if self._output is not None:
            self._output.close()

    def pause(self) -> None:
        """Freeze the process: connections stay open and nobody answers."""
        self.send(self._running(), signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `pause`."""
        self.send(self._running(), signal.SIGCONT)

    def send(self, process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
        """Send a signal to the program that a process of ours is, or stands for."""
        process.send_signal(number)

    def raise_if_ended(self) -> None:
        """Check that the process runs.

        Raises:
            RuntimeError: it has ended; the message holds the end of its log.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with {code}:\n{self.log_tail()}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
