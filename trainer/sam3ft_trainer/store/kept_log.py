"""All that a run has said where nobody far away can read it, kept beside its history piece by piece.

    logs/UID/000000000000-000000004096.log       bytes of the log from the first up to the second, redacted

Whoever reads goes from piece to piece, each beginning where the last one ends. A writer that is not sure what the one
before it has kept looks first (`kept_from`), so that no piece begins inside another.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.redact import redact
from sam3ft_trainer.store.objects import NotFound, Store
from sam3ft_trainer.store.pieces import chain
from sam3ft_trainer.store.tails import LOGS

PIECE_BYTES = 1 << 20
_OWNER = re.compile(r"[A-Za-z0-9-]{1,128}")
_NAME = re.compile(r"(\d{12})-(\d{12})\.log")


def keep_piece(store: Store, log: Path, *, owner: str, start: int, is_over: bool = False) -> int:
    """Keep a piece of what a log holds from a byte on, in whole lines; returns the byte from which to go on.

    Args:
        store: rooted at the run's address.
        log: that grows, and never begins anew.
        owner: identity of the run, so that two that claim one address do not mix.
        start: what the last call, or `kept_from`, has returned.
        is_over: nothing is added any more, so that a last line without an end is kept, too.

    Raises:
        InvalidConfig: the owner is no identity.
        StorageDenied, StorageUnavailable: as the store says; nothing is lost, and the same call goes on.
        OSError: the log cannot be read.
    """
    with log.open("rb") as file:
        file.seek(start)
        data = file.read(PIECE_BYTES)
    piece = data[: data.rfind(b"\n") + 1]
    if not piece and (is_over or len(data) == PIECE_BYTES):  # a line that is longer than a piece is cut
        piece = data
    if piece:
        text = redact(piece.decode(errors="replace"))
        store.put(_key(owner, start, start + len(piece)), text.encode())
    return start + len(piece)


def kept_from(store: Store, *, owner: str, start: int) -> int:
    """Return the byte from which to go on where it is not sure what was kept from `start` on: no piece begins there.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    return max((end for _, end in _pieces_from(store, owner, start)), default=start)


def read_on(store: Store, *, owner: str, start: int) -> Iterator[tuple[str, int]]:
    """Yield the kept text from a byte on, and with each piece the byte from which to go on.

    A start within a piece yields nothing before the next one: give 0, or what this has yielded.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    for begin, end in _pieces_from(store, owner, start):
        with suppress(NotFound):
            yield _text(store, owner, begin, end), end


def newest_lines(store: Store, *, owner: str, lines: int) -> tuple[list[str], int]:
    """Return the newest kept lines, and the byte from which `read_on` goes on; nothing and 0 when none are kept.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    pieces = _pieces_from(store, owner, 0)
    found: list[str] = []
    for begin, end in reversed(pieces):
        if len(found) >= lines:
            break
        with suppress(NotFound):
            found = _text(store, owner, begin, end).splitlines() + found
    return found[max(0, len(found) - lines) :], pieces[-1][1] if pieces else 0


def _pieces_from(store: Store, owner: str, start: int) -> list[tuple[int, int]]:
    """Begin and end of each piece from a byte on, each beginning where the last one ends; the longest, of several."""
    names = (_NAME.fullmatch(info.key.rpartition("/")[2]) for info in store.list_objects(_prefix(owner)))
    return chain(((int(name[1]), int(name[2])) for name in names if name), start=start)


def _text(store: Store, owner: str, begin: int, end: int) -> str:
    return store.get(_key(owner, begin, end)).decode(errors="replace")


def _key(owner: str, begin: int, end: int) -> str:
    return f"{_prefix(owner)}/{begin:012d}-{end:012d}.log"


def _prefix(owner: str) -> str:
    if not _OWNER.fullmatch(owner):
        raise InvalidConfig(f"{owner!r} is no identity of a run: letters, digits and - are allowed")
    return f"{LOGS}/{owner}"
