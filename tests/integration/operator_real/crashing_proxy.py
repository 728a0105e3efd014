"""A proxy that counts writes, and kills the operator at the one it is told.

Writes of the Lease are let through uncounted: they depend on the clock alone.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Literal

from control_plane import ControlPlane
from forwarding_proxy import WRITES, ForwardingProxy

Moment = Literal["before", "after"]


class CrashingProxy(ForwardingProxy):
    """Forwards until the write at which the operator dies, and afterwards again.

    Attributes:
        writes: method and path of every counted write that has arrived.
        crash: kills the operator.
    """

    def __init__(self, plane: ControlPlane, *, crash_at: int = 0, moment: Moment = "before") -> None:
        """Prepare.

        Args:
            plane: whose API server is asked.
            crash_at: number of the write at which the operator dies, 1 for the first; 0 for never.
            moment: before the API server hears of it, or after it has done it and before the operator hears of that.
        """
        super().__init__(plane)
        self.writes: list[str] = []
        self.crash: Callable[[], None] = lambda: None
        self._crash_at, self._moment = crash_at, moment
        self._lock = threading.Lock()

    def forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Forward a call, or end the operator instead of answering it."""
        if not self._crashes(handler.command, handler.path):
            super().forward(handler, body)
            return
        if self._moment == "after":
            with self.asked(handler, body, handler.path) as answer:
                answer.read()
        self.crash()

    def _crashes(self, method: str, path: str) -> bool:
        """Count a write, and say whether it is the one."""
        if method not in WRITES or "/leases" in path:
            return False
        with self._lock:
            self.writes.append(f"{method} {path.partition('?')[0]}")
            return len(self.writes) == self._crash_at
