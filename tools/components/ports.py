"""Ports of the loopback interface for servers that the tests start."""

import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

HOST = "127.0.0.1"
_PORTS = range(20000, 30000)


class _Ledger:
    """A file of the machine in which byte N is locked by the process that was given port N, for as long as it lives."""

    def __init__(self) -> None:
        self._owner = -1
        self._descriptor = -1
        self._given: set[int] = set()
        self._one_at_a_time = threading.Lock()

    def take(self, port: int) -> bool:
        """Tell whether the port is this caller's now: no other call, of this process or another, is given it."""
        with self._one_at_a_time:
            if self._owner != os.getpid():  # locks stay with the parent when a process forks
                path = Path(tempfile.gettempdir()) / f"sam3ft-ports-{os.getuid()}"
                # It stays open until the process ends, which is when its ports are free again.
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                self._given, self._owner = set(), os.getpid()
            if port in self._given:
                return False
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except OSError:
                return False
            self._given.add(port)
            return True


_ledger = _Ledger()


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago and is given to nobody else.

    No other call is given it while this process lives, whichever session of tests makes it. It lies below those that
    the system gives to outgoing connections: a program that is restarted finds it free again.

    Raises:
        OSError: none is free.
    """
    ports = list(_PORTS)
    random.SystemRandom().shuffle(ports)  # two sessions with one seed would try the same
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if _ledger.take(port) and _can_bind(probe, port):
                return port
    raise OSError(f"no port of {HOST} is free in {_PORTS}")


def _can_bind(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind((HOST, port))
    except OSError:
        return False
    return True
