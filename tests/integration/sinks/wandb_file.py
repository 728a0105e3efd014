"""Reads a `.wandb` file: records of W&B's own protobuf classes, in the framing of LevelDB's log.

The library's reader is part of its compiled program and only uploads; the framing is public, and needs these lines.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

HEADER_BYTES = 7
"""Of the file (`:W&B` and a version), and of each piece (sum, length, kind)."""
BLOCK_BYTES = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> list[Record]:
    """Return every record of a file."""
    data = path.read_bytes()
    assert data.startswith(b":W&B"), data[:16]
    return [Record.FromString(whole) for whole in _wholes(data)]


def _wholes(data: bytes) -> Iterator[bytes]:
    at, parts = HEADER_BYTES, b""
    while at + HEADER_BYTES <= len(data):
        room = BLOCK_BYTES - at % BLOCK_BYTES
        if room < HEADER_BYTES:
            at += room
            continue
        _sum, length, kind = struct.unpack("<IHB", data[at : at + HEADER_BYTES])
        at += HEADER_BYTES
        assert kind in (FULL, FIRST, MIDDLE, LAST), kind
        parts = (b"" if kind in (FULL, FIRST) else parts) + data[at : at + length]
        at += length
        if kind in (FULL, LAST):
            yield parts
