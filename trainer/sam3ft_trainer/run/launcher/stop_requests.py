"""Signals that ask the launcher to stop, counted by handlers that do nothing else."""

import signal
from collections import deque
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class StopRequests:
    """Counts SIGTERM, SIGINT (Ctrl-C), SIGHUP and SIGUSR2 (SLURM's warning); `pop` returns them one by one.

    A signal that was ignored when the process began stays ignored, as `nohup` asks for.
    """

    def __init__(self) -> None:
        """Install the handlers; call from the main thread."""
        self._pending: deque[int] = deque()
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def pop(self) -> str | None:
        """Return the name of the oldest request not yet returned, None without one."""
        return signal.Signals(self._pending.popleft()).name if self._pending else None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._pending.append(number)
