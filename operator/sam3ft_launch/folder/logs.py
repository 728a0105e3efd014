"""Lines of a file that is still written to."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL_S = 0.1
_TAIL_BYTES_PER_LINE = 2048
"""Longest line that counts fully; longer ones make `last_lines` return fewer."""


def last_lines(path: Path, *, lines: int) -> list[str]:
    """Return at most `lines` lines from the end of a file, without newlines; none when there is no file.

    Reads at most 2,048 bytes a line, so that a log of any size costs little.
    """
    return _read_tail(path, lines=lines)[0]


def follow_lines(path: Path, *, lines: int, is_over: Callable[[], bool]) -> Iterator[str]:
    """Yield the last `lines` lines, then every new one until `is_over()` and the file is read to its end.

    Args:
        path: the file, which may not exist yet.
        lines: how many to begin with.
        is_over: asked when there is nothing new; True ends after one more look.
    """
    shown, position = _read_tail(path, lines=lines)
    yield from shown
    partial = ""
    ending = False
    while True:
        text, position = _read_from(path, position)
        *whole, partial = (partial + text).split("\n")
        yield from whole
        if text:
            continue
        if ending:
            break
        ending = is_over()
        if not ending:
            time.sleep(_POLL_S)
    if partial:
        yield partial


def _read_tail(path: Path, *, lines: int) -> tuple[list[str], int]:
    """Return the last whole lines and the position behind them."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            start = stream.seek(max(0, size - lines * _TAIL_BYTES_PER_LINE))
            data = stream.read(size - start)
    except FileNotFoundError:
        return [], 0
    if start > 0:
        data = data.partition(b"\n")[2]  # the first line is cut
    whole, newline, _partial = data.rpartition(b"\n")
    text = whole.decode(errors="replace")
    position = size - len(data) + len(whole) + len(newline)
    return (list(deque(text.split("\n"), maxlen=lines)) if newline else []), position


def _read_from(path: Path, position: int) -> tuple[str, int]:
    try:
        with path.open("rb") as stream:
            stream.seek(position)
            data = stream.read(1 << 20)
    except FileNotFoundError:
        return "", position
    # Bytes of a character that is half written stay for the next look.
    cut = len(data) - _num_incomplete_bytes(data)
    return data[:cut].decode(errors="replace"), position + cut


def _num_incomplete_bytes(data: bytes) -> int:
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
        if byte & 0x80 == 0:
            return 0
    return 0
