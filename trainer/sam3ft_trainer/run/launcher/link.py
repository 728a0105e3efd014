"""The launcher's connection to the coordinator, on a thread of its own: the main thread never touches a socket.

The connection is never fatal: it is made again for ever, and after each hello the node's present standing is told
again, so that nothing which was lost on the way needs to be remembered.
"""

import contextlib
import logging
import os
import queue
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api import limits
from sam3ft_api.messages import (
    CoordinatorMessage,
    Heartbeat,
    Hello,
    MalformedMessage,
    Pong,
    Refused,
    decode_from_coordinator,
    encode,
)
from sam3ft_api.worker import Progress
from sam3ft_trainer.run.launcher.commands import Standing

_log = logging.getLogger(__name__)
HEARTBEAT_S = 1.0
SILENCE_S = 3.0
"""Without a word from the coordinator for this long, the connection is made anew."""
_CONNECT_S = 3.0
_RETRY_S = 0.3
_REFUSED_RETRY_S = 2.0
_MAX_PROGRESS_BYTES = limits.MAX_LINE_BYTES // 2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this launcher is; see `Hello` for the attributes."""

    node: str
    slot: int
    instance: str
    started_unix_s: float
    attempt: int
    token: str
    addr: str
    processes: int

    def hello(self, standing: Standing) -> Hello:
        """Return the hello for the present standing."""
        return Hello(
            node=self.node,
            slot=self.slot,
            instance=self.instance,
            started_unix_s=self.started_unix_s,
            attempt=self.attempt,
            token=self.token,
            addr=self.addr,
            processes=self.processes,
            round=standing.round.round if standing.round is not None else 0,
            members=standing.round.members if standing.round is not None else (),
            past_round=standing.past_round,
        )


class Link:
    """Keeps the coordinator informed, and passes on what it says.

    Attributes:
        inbox: messages of the coordinator, but for pongs, in order.
    """

    def __init__(
        self, host: str, port: int, identity: Identity, *, read_progress: Callable[[], Progress | None]
    ) -> None:
        """Prepare; `start` connects.

        Args:
            host: of the coordinator.
            port: of the coordinator.
            identity: who this launcher is.
            read_progress: called once a second on the link's thread; None when there is nothing to read.
        """
        self.inbox: queue.SimpleQueue[CoordinatorMessage] = queue.SimpleQueue()
        self._address = (host, port)
        self._identity = identity
        self._read_progress = read_progress
        self._lock = threading.Lock()
        self._standing = Standing()
        self._version = 0
        self._restarts = 0
        self._closing_at_s: float | None = None
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        # What follows belongs to the link's thread.
        self._told_version = -1
        self._told_progress: Progress | None = None
        self._retry_s = _RETRY_S
        self._seq = 0
        self._heard_s = 0.0
        self._buffer = b""

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def tell(self, standing: Standing, *, restarts: int = 0) -> None:
        """Replace what the coordinator should know; returns at once."""
        with self._lock:
            self._standing = standing
            self._version += 1
            self._restarts = restarts
        self._wake()

    def close(self, *, linger_s: float) -> None:
        """Send what is left and end the connection; returns after `linger_s` seconds at the latest."""
        with self._lock:
            self._closing_at_s = time.monotonic() + linger_s
        self._wake()
        if self._thread.is_alive():
            self._thread.join(linger_s)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_w, b"x")

    # --- on the link's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                with socket.create_connection(self._address, timeout=_CONNECT_S) as connection:
                    self._converse(connection)
            except (OSError, MalformedMessage) as error:
                _log.debug("link: %s", error)  # the coordinator is away, or confused: try again, for ever
            if self._is_finished():
                return
            select.select([self._wake_r], [], [], self._retry_s * random.uniform(0.7, 1.3))  # noqa: S311 - only jitter
            self._drain_wakes()
            if self._is_finished():
                return

    def _converse(self, connection: socket.socket) -> None:
        """Hold one connection until it fails, the coordinator ends it, or the link closes."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(SILENCE_S)
        self._introduce(connection)
        beat_s = time.monotonic() + HEARTBEAT_S
        is_shut = False
        while (now_s := time.monotonic()) - self._heard_s <= SILENCE_S:
            self._tell_news(connection)
            if now_s >= beat_s and not is_shut:
                connection.sendall(encode(self._heartbeat()))
                beat_s = now_s + HEARTBEAT_S
            if self._closing_at_s is not None:
                if now_s >= self._closing_at_s:
                    return
                if not is_shut:
                    # Everything is told. Reading to the end lets the coordinator take it before the kernel resets.
                    connection.shutdown(socket.SHUT_WR)
                    is_shut = True
            readable, _, _ = select.select(
                [connection.fileno(), self._wake_r], [], [], max(0.0, min(beat_s - now_s, 0.5))
            )
            self._drain_wakes()
            if connection.fileno() in readable and not self._listen(connection):
                return

    def _introduce(self, connection: socket.socket) -> None:
        with self._lock:
            standing, self._told_version = self._standing, self._version
        words = encode(self._identity.hello(standing))
        if standing.message is not None:
            words += encode(standing.message)
        connection.sendall(words)
        self._retry_s = _RETRY_S
        self._heard_s = time.monotonic()
        self._buffer = b""
        self._seq = 0
        self._told_progress = None  # a coordinator that began anew has not seen it

    def _tell_news(self, connection: socket.socket) -> None:
        """Send the standing when it is new; that of a running round needs no word, the coordinator made it."""
        with self._lock:
            standing, version = self._standing, self._version
        if version != self._told_version:
            if standing.message is not None:
                connection.sendall(encode(standing.message))
            self._told_version = version

    def _listen(self, connection: socket.socket) -> bool:
        """Take what has arrived; False when the coordinator has ended the connection."""
        data = connection.recv(65536)
        if not data:
            return False
        self._heard_s = time.monotonic()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > limits.MAX_LINE_BYTES:
            raise MalformedMessage(f"a line without an end after {limits.MAX_LINE_BYTES} bytes")
        for line in lines:
            message = decode_from_coordinator(line)
            if isinstance(message, Refused):
                self._retry_s = _REFUSED_RETRY_S
            if not isinstance(message, Pong):
                self.inbox.put(message)
        return True

    def _heartbeat(self) -> Heartbeat:
        with self._lock:
            standing, restarts = self._standing, self._restarts
        progress = self._read_progress()
        has_rank_0 = standing.round is not None and standing.round.first_rank == 0
        is_news = has_rank_0 and progress != self._told_progress
        if is_news:
            self._told_progress = progress
        self._seq += 1
        return Heartbeat(
            seq=self._seq,
            round=standing.round.round if standing.round is not None else 0,
            step=progress.step if progress is not None else 0,
            commit_step=progress.checkpoint_step if progress is not None else None,
            restarts=restarts,
            progress=progress if is_news else None,
        )

    def _is_finished(self) -> bool:
        with self._lock:
            if self._closing_at_s is None:
                return False
            return self._told_version == self._version or time.monotonic() >= self._closing_at_s

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_r, 4096)


def progress_reader(path: Path) -> Callable[[], Progress | None]:
    """Return a function that reads rank 0's progress file, None while there is none that can be read.

    What stands there now was written for another launcher, and is not looked at; no clock is asked, because a shared
    folder's may differ from this node's. The newest good content is kept. The function belongs to one thread.
    """
    seen = _stamp(path)
    newest: Progress | None = None

    def read() -> Progress | None:
        nonlocal seen, newest
        try:
            stamp = _stamp(path)
            if stamp is not None and stamp != seen and stamp[2] <= _MAX_PROGRESS_BYTES:
                newest, seen = Progress.model_validate_json(path.read_bytes()), stamp
        except (OSError, ValidationError) as error:
            _log.debug("progress: %s", error)
        return newest

    return read


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with every replacement of a file; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
