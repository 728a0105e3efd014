"""The coordinator's sockets: JSON lines from launchers, a little HTTP for whoever looks; decides nothing itself."""

import asyncio
import contextlib
import hmac
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from sam3ft_api import limits
from sam3ft_api.messages import (
    CoordinatorMessage,
    Hello,
    MalformedMessage,
    Refused,
    decode_from_launcher,
    encode,
)
from sam3ft_launch.coordinator.counts import Counts
from sam3ft_launch.coordinator.events import Refusal
from sam3ft_launch.coordinator.exposition import Exposition
from sam3ft_launch.coordinator.roster import Action, Close, Note, Send
from sam3ft_launch.coordinator.rounds import Rounds
from sam3ft_launch.coordinator.settings import Settings
from sam3ft_launch.coordinator.view import progress_view

_log = logging.getLogger(__name__)
_OTHER_VERSION = "its hello is of another version than this coordinator; start both from the same version of sam3ft"
_HELLO_WITHIN_S = 3.0
_MAX_STRANGERS = 64
"""Connections that have not introduced themselves; with one more, the one that has said nothing for longest is closed.

Launchers say hello at once, so a crowd that holds connections open does not keep them out."""
_BACKLOG = 512
"""Connections that may wait for this process: all launchers of a large run come back at once after a restart, and one
that finds the queue full tries again only after a second."""
_FLUSH_WITHIN_S = 3.0
"""A closed connection whose peer does not take what was written is cut off after this."""
_MAX_UNSENT_BYTES = 4 * limits.MAX_LINE_BYTES
"""A peer that lets more than this pile up does not read, and is cut off."""
_HTTP_WITHIN_S = 3.0
_MAX_HTTP_LINES = 64
_MAX_HTTP_CLIENTS = 32

_Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


class Server:
    """Owns every connection and the state machine; everything runs on one event loop."""

    def __init__(self, settings: Settings, *, token: str) -> None:
        """Prepare; nothing listens yet.

        Args:
            settings: of the attempt.
            token: what a launcher must say; never logged.
        """
        self._settings = settings
        self._token = token.encode()
        self.rounds = Rounds(settings, now_s=time.monotonic())
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._numbers = itertools.count(1)
        self._listening: list[asyncio.Server] = []
        self._conversations: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._strangers: dict[int, asyncio.StreamWriter] = {}
        self._num_http_clients = 0
        self._counts = Counts()
        self._exposition = Exposition(self.rounds, self._counts)
        self._http_routes: dict[str, Callable[[str], tuple[str, bytes]]] = {
            "/progress": self._progress,
            "/metrics": lambda accepted: self._exposition.answer(accepted, now_s=time.monotonic()),
            "/healthz": lambda _: ("text/plain", b"ok\n"),
        }

    async def listen(self, launchers: Address, viewers: Address) -> tuple[Address, Address]:
        """Open both ports and return where they really are.

        Raises:
            OSError: a port is taken, or an address is not this machine's.
        """
        first = await asyncio.start_server(
            self._kept(self._launcher),
            launchers.host,
            launchers.port,
            limit=limits.MAX_LINE_BYTES,
            backlog=_BACKLOG,
            reuse_address=True,
        )
        second = await asyncio.start_server(
            self._kept(self._viewer), viewers.host, viewers.port, limit=8192, reuse_address=True
        )
        self._listening = [first, second]
        return _bound_address(first, launchers.host), _bound_address(second, viewers.host)

    async def close(self) -> None:
        """Close both ports and every connection; launchers keep their workers running and try to come back."""
        self._is_closing = True
        for listening in self._listening:
            listening.close()
        for conversation in list(self._conversations):
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    async def keep_time(self) -> None:
        """Tick until cancelled."""
        while True:
            self._do(self.rounds.tick(now_s=time.monotonic()))
            await asyncio.sleep(self._settings.tick_s)

    def _kept(self, converse: _Converse) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """Start each conversation as a task that `close` can end."""

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(converse(reader, writer))
            self._conversations.add(task)
            task.add_done_callback(self._conversations.discard)

        return begin

    # --- launchers ---------------------------------------------------------------------------------------------------

    async def _launcher(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = next(self._numbers)
        try:
            if await self._introduce(peer, reader, writer):
                await self._listen_to(peer, reader)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the connection is over, which `closed` tells the rules
        except (MalformedMessage, asyncio.LimitOverrunError) as error:
            _log.warning("connection %d: %s", peer, error)
            self._counts.refuse(Refusal.MALFORMED)
        finally:
            self._writers.pop(peer, None)
            _close(writer)
            # What this process closes at its own end is no loss: the rules would have the others stop their workers.
            if not self._is_closing:
                self._do(self.rounds.closed(peer, now_s=time.monotonic()))

    async def _introduce(self, peer: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read the hello; True when the launcher is admitted to the rules."""
        self._make_room()
        self._strangers[peer] = writer
        try:
            line = await asyncio.wait_for(reader.readuntil(), _HELLO_WITHIN_S)
        except TimeoutError:
            self._counts.refuse(Refusal.SLOW)
            raise
        finally:
            self._strangers.pop(peer, None)
        try:
            message = decode_from_launcher(line)
        except MalformedMessage as error:
            if not str(error).startswith("hello."):
                raise
            # A launcher of another version would come back for ever, and its user would never read why.
            _log.warning("connection %d: %s", peer, error)
            await self._refuse(peer, writer, Refusal.VERSION, _OTHER_VERSION)
            return False
        if not isinstance(message, Hello):
            await self._refuse(peer, writer, Refusal.GREETING, "the first message of a connection is hello")
            return False
        if (refusal := self._refusal(message)) is not None:
            await self._refuse(peer, writer, *refusal)
            return False
        self._writers[peer] = writer
        self._do(self.rounds.hello(peer, message, now_s=time.monotonic()))
        return True

    async def _refuse(self, peer: int, writer: asyncio.StreamWriter, reason: Refusal, sentence: str) -> None:
        self._counts.refuse(reason)
        _log.warning("connection %d refused: %s", peer, sentence)
        writer.write(encode(Refused(reason=sentence)))
        await asyncio.wait_for(writer.drain(), _HELLO_WITHIN_S)

    def _make_room(self) -> None:
        """Cut off the stranger that has been here longest, where there are too many."""
        if len(self._strangers) < _MAX_STRANGERS:
            return
        oldest = next(iter(self._strangers))
        self._strangers.pop(oldest).transport.abort()
        self._counts.refuse(Refusal.CROWD)
        count = self._counts.refused[Refusal.CROWD]
        if count.bit_count() == 1:  # 1, 2, 4, 8...: a flood must not fill the log
            _log.warning("%d connections were cut off because too many had not said hello", count)

    def _refusal(self, hello: Hello) -> tuple[Refusal, str] | None:
        if not hmac.compare_digest(hello.token.encode(), self._token):
            return Refusal.TOKEN, "the token is not this attempt's"
        if hello.attempt != self._settings.attempt:
            serves = f"this coordinator serves attempt {self._settings.attempt}, not {hello.attempt}"
            return Refusal.ATTEMPT, serves
        return None

    async def _listen_to(self, peer: int, reader: asyncio.StreamReader) -> None:
        while peer in self._writers:
            line = await reader.readuntil()
            message = decode_from_launcher(line)
            before = self.rounds.progress
            self._do(self.rounds.received(peer, message, now_s=time.monotonic()))
            if (progress := self.rounds.progress) is not None and progress is not before:
                self._counts.learn(progress, now_unix_s=time.time())

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    if isinstance(action.message, Refused):
                        self._counts.refuse(Refusal.SLOT)  # the rules' only reason to refuse
                    self._write(action.peer, action.message)
                case Close():
                    # Closing flushes what was written; the reading task then ends and reports `closed`.
                    if (writer := self._writers.pop(action.peer, None)) is not None:
                        _close(writer)
                case Note():
                    _log.info("%s", action.text)
                    if action.event is not None:
                        is_over = self.rounds.verdict is not None or self.rounds.complete
                        self._counts.add(action.event, is_over=is_over)

    def _write(self, peer: int, message: CoordinatorMessage) -> None:
        writer = self._writers.get(peer)
        if writer is None:
            return
        if writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            _log.warning("connection %d does not read; cutting it off", peer)
            writer.transport.abort()
            return
        writer.write(encode(message))

    # --- viewers -----------------------------------------------------------------------------------------------------

    async def _viewer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._num_http_clients += 1
        try:
            if self._num_http_clients <= _MAX_HTTP_CLIENTS:
                await asyncio.wait_for(self._answer(reader, writer), _HTTP_WITHIN_S)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a viewer that does not speak HTTP, or not in time, is nobody's concern
        finally:
            self._num_http_clients -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\n")).decode("latin-1").split()
        accepted = ""
        for _ in range(_MAX_HTTP_LINES):
            line = (await reader.readuntil(b"\n")).decode("latin-1").strip()
            if not line:
                break
            name, _, value = line.partition(":")
            if name.lower() == "accept":
                accepted = value
        route = self._http_routes.get(request[1].partition("?")[0]) if len(request) >= 2 else None
        if request[:1] != ["GET"]:
            status, kind, body = "405 Method Not Allowed", "text/plain", b"only GET\n"
        elif route is None:
            status, kind, body = "404 Not Found", "text/plain", b"/progress, /metrics and /healthz are here\n"
        else:
            status, (kind, body) = "200 OK", route(accepted)
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()

    def _progress(self, _: str) -> tuple[str, bytes]:
        view = progress_view(self.rounds, now_s=time.monotonic())
        return "application/json", json.dumps(view).encode() + b"\n"


def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection after what was written; a peer that is gone or does not read cannot hold it for long."""
    writer.close()
    if writer.transport.get_write_buffer_size() > 0:
        asyncio.get_running_loop().call_later(_FLUSH_WITHIN_S, writer.transport.abort)


def _bound_address(server: asyncio.Server, host: str) -> Address:
    return Address(host, server.sockets[0].getsockname()[1])


async def serve_until(stop: Callable[[], Awaitable[object]], server: Server) -> None:
    """Keep the clock of a listening server until `stop` returns, then close it."""
    ticking = asyncio.create_task(server.keep_time())
    stopping = asyncio.ensure_future(stop())
    try:
        await asyncio.wait({ticking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        await stopping
    finally:
        stopping.cancel()
        await server.close()
