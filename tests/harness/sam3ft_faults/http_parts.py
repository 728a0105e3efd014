"""As much of HTTP/1.1 as a proxy needs: heads, and bodies as streams of their payload."""

from asyncio import IncompleteReadError, LimitOverrunError, StreamReader
from collections.abc import AsyncIterator
from dataclasses import dataclass

PIECE = 16 << 10
"""Bodies are passed on in pieces of at most this many bytes."""
HEAD_LIMIT = 1 << 20
NO_BODY_STATUS = frozenset({204, 304})


class NotHttp(Exception):
    """A peer sent something that is not HTTP/1.1."""


@dataclass(slots=True)
class Head:
    """First line and headers of a request or an answer, kept as they were sent.

    Attributes:
        first: words of the first line: method, target, version; or version, status, reason.
        lines: header lines without their ends, in order.
    """

    first: tuple[str, str, str]
    lines: list[bytes]

    def get(self, name: str) -> str:
        """Return a header's value, empty without one."""
        wanted = name.lower().encode()
        for line in self.lines:
            key, _, value = line.partition(b":")
            if key.strip().lower() == wanted:
                return value.strip().decode("latin-1")
        return ""

    def replace(self, name: str, value: str) -> None:
        """Set the value of a header that is there."""
        wanted = name.lower().encode()
        self.lines = [
            f"{name}: {value}".encode() if line.partition(b":")[0].strip().lower() == wanted else line
            for line in self.lines
        ]

    @property
    def status(self) -> int:
        """The code of an answer."""
        return int(self.first[1])

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self.get("transfer-encoding").lower()

    @property
    def length(self) -> int | None:
        """Bytes of the body as announced, None without an announcement."""
        text = self.get("content-length")
        return int(text) if text.isdecimal() else None

    def encoded(self) -> bytes:
        """Return the bytes as they go on the wire."""
        return b"\r\n".join([" ".join(self.first).strip().encode("latin-1"), *self.lines, b"", b""])


async def read_head(reader: StreamReader) -> Head | None:
    """Return the next head, None when the peer has closed before one.

    Raises:
        NotHttp: it is no head, or far too long.
    """
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except IncompleteReadError as error:
        if error.partial.strip():
            raise NotHttp(f"the connection ended within a head: {error.partial[:80]!r}") from error
        return None
    except LimitOverrunError as error:
        raise NotHttp("the head is longer than a mebibyte") from error
    first, *lines = raw[:-4].split(b"\r\n")
    words = first.decode("latin-1").split(" ", 2)
    if len(words) < 2:
        raise NotHttp(f"{first[:80]!r} is no first line")
    return Head((words[0], words[1], words[2] if len(words) > 2 else ""), lines)


def has_body(answer: Head, method: str) -> bool:
    """Say whether an answer to `method` is followed by a body."""
    return method != "HEAD" and answer.status >= 200 and answer.status not in NO_BODY_STATUS


async def payload(reader: StreamReader, head: Head, *, until_end: bool) -> AsyncIterator[bytes]:
    """Yield a body's payload in pieces, without the framing of chunks.

    Args:
        reader: stands behind the head.
        head: says how long the body is.
        until_end: without any announcement the body ends with the connection, as answers do; requests then have none.

    Raises:
        IncompleteReadError: the peer closed too early. NotHttp: the chunks are malformed.
    """
    if head.is_chunked:
        while size := await _chunk_size(reader):
            async for piece in _exactly(reader, size):
                yield piece
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            continue
    elif head.length is not None:
        async for piece in _exactly(reader, head.length):
            yield piece
    elif until_end:
        while piece := await reader.read(PIECE):
            yield piece


def framed(piece: bytes, *, chunked: bool) -> bytes:
    """Return a piece of payload as it goes on the wire; an empty one ends a chunked body."""
    if not chunked:
        return piece
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def _exactly(reader: StreamReader, size: int) -> AsyncIterator[bytes]:
    while size > 0:
        piece = await reader.read(min(size, PIECE))
        if not piece:
            raise IncompleteReadError(b"", size)
        size -= len(piece)
        yield piece


async def _chunk_size(reader: StreamReader) -> int:
    line = await reader.readline()
    try:
        return int(line.split(b";")[0], 16)
    except ValueError as error:
        raise NotHttp(f"{line[:80]!r} is no size of a chunk") from error
