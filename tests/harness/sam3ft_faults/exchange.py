"""One client connection of the proxy: exchange after exchange, passed on or spoilt."""

import asyncio
import contextlib
import socket
import struct
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import AsyncIterator

from sam3ft_faults.deciding import Decider
from sam3ft_faults.http_parts import HEAD_LIMIT, PIECE, Head, NotHttp, framed, has_body, payload, read_head
from sam3ft_faults.rules import Rule

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with a linger time of zero: closing then sends RST in place of FIN."""
GONE = (ConnectionError, IncompleteReadError, TimeoutError, NotHttp, OSError)
"""What reading from or writing to a peer that is gone may raise."""


class Over(Exception):
    """This connection has been ended on purpose."""


class Connection:
    """A client and the server's side that belongs to it."""

    def __init__(
        self, reader: StreamReader, writer: StreamWriter, *, target: tuple[str, int], decider: Decider
    ) -> None:
        """Take a client's connection.

        Args:
            reader: from the client.
            writer: to the client.
            target: host and port of the server.
            decider: chooses what is spoilt, and counts.
        """
        self._reader, self._writer = reader, writer
        self._target, self._decider = target, decider
        self._upstream: tuple[StreamReader, StreamWriter] | None = None

    async def run(self) -> None:
        """Serve until either side ends; whatever happens, both sides are closed then."""
        self._decider.count("connections")
        try:
            while head := await read_head(self._reader):
                await self._exchange(head)
        except Over:
            pass
        except GONE:
            self._decider.count("broken")
        finally:
            self.close()

    def close(self, *, by_reset: bool = False) -> None:
        """Close both sides."""
        for writer in (self._writer, self._upstream[1] if self._upstream else None):
            if writer is not None:
                _close(writer, by_reset=by_reset)

    async def _exchange(self, head: Head) -> None:
        method, target, _ = head.first
        rule = self._decider.choose(method, target)
        if rule.delay_s:
            await asyncio.sleep(rule.delay_s)
        if rule.fault == "blackhole":
            await self._until_client_leaves()
        if rule.fault == "status":
            await self._answer_itself(head, rule)
            return
        reader, writer = await self._connect()
        sending = asyncio.create_task(self._send_request(head, rule, writer))
        try:
            answer = await self._read_answer(reader)
            await self._send_answer(answer, rule, method, reader)
            if not sending.done() and rule.fault == "none":
                await sending
        except GONE:
            if sending.done() and not sending.cancelled() and isinstance(sending.exception(), Over):
                raise Over from None
            raise
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Over, *GONE):
                await sending
        if "close" in (head.get("connection").lower(), answer.get("connection").lower()):
            raise Over

    async def _connect(self) -> tuple[StreamReader, StreamWriter]:
        if self._upstream is None or self._upstream[0].at_eof():
            if self._upstream is not None:
                _close(self._upstream[1])
            self._upstream = await asyncio.open_connection(*self._target, limit=HEAD_LIMIT)
        return self._upstream

    async def _send_request(self, head: Head, rule: Rule, writer: StreamWriter) -> None:
        """Pass the request on; ends the connection itself where the rule cuts it here."""
        cut = rule.at_byte if rule.fault == "reset-request" else None
        writer.write(head.encoded())
        sent = 0
        async for piece in _paced(payload(self._reader, head, until_end=False), rule.bytes_per_s):
            if cut is not None and sent + len(piece) > cut:
                writer.write(piece[: cut - sent])
                await writer.drain()
                break
            writer.write(framed(piece, chunked=head.is_chunked))
            await writer.drain()
            sent += len(piece)
            self._decider.count("request_bytes", len(piece))
        if cut is not None:
            self.close(by_reset=True)
            raise Over
        if head.is_chunked:
            writer.write(framed(b"", chunked=True))
        await writer.drain()

    async def _read_answer(self, reader: StreamReader) -> Head:
        """Return the final answer's head; those before it (100 Continue) are passed on."""
        while True:
            answer = await read_head(reader)
            if answer is None:
                raise ConnectionError("the server closed without an answer")
            if answer.status >= 200:
                return answer
            self._writer.write(answer.encoded())
            await self._writer.drain()

    async def _send_answer(self, answer: Head, rule: Rule, method: str, reader: StreamReader) -> None:
        body = payload(reader, answer, until_end=True) if has_body(answer, method) else _nothing()
        if rule.fault == "lose-response":
            async for _ in body:
                continue
            self.close(by_reset=True)
            raise Over
        at_byte = rule.at_byte if answer.length is None else max(0, min(rule.at_byte, answer.length - 1))
        if rule.fault == "short" and method != "HEAD":
            answer.replace("Content-Length", str(at_byte))
        self._writer.write(answer.encoded())
        sent = 0
        async for whole in _paced(body, rule.bytes_per_s):
            piece = whole
            if rule.fault == "corrupt" and sent <= at_byte < sent + len(piece):
                piece = _flipped(piece, at_byte - sent)
            if rule.fault in {"reset", "half-close", "stall", "short"} and sent + len(piece) > at_byte:
                self._writer.write(framed(piece[: at_byte - sent], chunked=answer.is_chunked and at_byte > sent))
                await self._writer.drain()
                await self._cut(rule, answer)
            self._writer.write(framed(piece, chunked=answer.is_chunked))
            await self._writer.drain()
            sent += len(piece)
            self._decider.count("answer_bytes", len(piece))
        if rule.fault in {"reset", "half-close", "stall"}:
            await self._cut(rule, answer)
        if answer.is_chunked and has_body(answer, method):
            self._writer.write(framed(b"", chunked=True))
        await self._writer.drain()
        if answer.length is None and not answer.is_chunked and has_body(answer, method):
            raise Over  # such a body ends with the connection

    async def _cut(self, rule: Rule, answer: Head) -> None:
        """End the answer here; never returns."""
        if rule.fault == "reset":
            await asyncio.sleep(0.05)  # what was written must arrive: a RST discards what the client has not read
            self.close(by_reset=True)
        elif rule.fault == "half-close":
            self._writer.write_eof()
            await self._until_client_leaves()
        elif rule.fault == "stall":
            await self._until_client_leaves()
        elif answer.is_chunked:
            self._writer.write(framed(b"", chunked=True))
            await self._writer.drain()
        raise Over

    async def _answer_itself(self, head: Head, rule: Rule) -> None:
        """Take the request's body, and answer without the server."""
        async for _ in payload(self._reader, head, until_end=False):
            continue
        body = rule.body.encode()
        lines = [f"HTTP/1.1 {rule.status} Injected", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if head.first[0] == "HEAD" else body))
        await self._writer.drain()

    async def _until_client_leaves(self) -> None:
        """Swallow what the client sends; never returns."""
        while await self._reader.read(PIECE):
            continue
        raise Over


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _paced(pieces: AsyncIterator[bytes], bytes_per_s: float | None) -> AsyncIterator[bytes]:
    """Pass pieces on, no faster than the bound: small ones, each after the time it takes."""
    async for piece in pieces:
        if bytes_per_s is None:
            yield piece
            continue
        size = max(1, int(bytes_per_s * 0.05))
        for start in range(0, len(piece), size):
            part = piece[start : start + size]
            await asyncio.sleep(len(part) / bytes_per_s)
            yield part


def _flipped(piece: bytes, at: int) -> bytes:
    changed = bytearray(piece)
    changed[at] ^= 1
    return bytes(changed)


def _close(writer: StreamWriter, *, by_reset: bool = False) -> None:
    if by_reset:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        writer.transport.abort()
        return
    with contextlib.suppress(*GONE):
        writer.close()
