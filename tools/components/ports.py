"""Ports of the loopback interface for servers that the tests start."""

import os
import random
import socket

HOST = "127.0.0.1"
_PORTS = range(20000, 30000)
_WORKERS = 8


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago.

    It lies below those that the system gives to outgoing connections: a program that is restarted finds it free again.

    Raises:
        OSError: none is free.
    """
    ports = [port for port in _PORTS if port % _WORKERS == _worker()]
    random.SystemRandom().shuffle(ports)  # two sessions with one seed would find the same
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if _can_bind(probe, port):
                return port
    raise OSError(f"no port of {HOST} is free in {_PORTS}")


def _worker() -> int:
    """Return the number of this process among those of one session: each has ports of its own."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name.removeprefix("gw")) % _WORKERS if name.removeprefix("gw").isdecimal() else 0


def _can_bind(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind((HOST, port))
    except OSError:
        return False
    return True
