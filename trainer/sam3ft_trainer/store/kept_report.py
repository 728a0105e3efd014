"""What a run's report is made of, kept beside its history, so that there is a report when its machines are gone.

    report/000003/config.json                               settings of an incarnation, by its generation
    report/000003/dataset.json                              account of its splits
    report/000003/events-000000000000-000000004096.jsonl    bytes of what it has logged, redacted
    report/000003/scores.json                               scores of the end
    report/000003/report.html                               the page that it made at the run's end

Nothing is overwritten, and an incarnation writes below its own generation alone. A piece of the log grows until it is
full: the longer one is written, then the shorter one deleted. Whoever reads takes the longest of several, and goes from
piece to piece, each beginning where the last one ends.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_api.redact import redact
from sam3ft_trainer.store.objects import NotFound, Store
from sam3ft_trainer.store.pieces import chain

T = TypeVar("T")
KEPT = "report"
"""Prefix of it all."""
PAGE = "report.html"
"""Name of the finished page."""
PIECE_BYTES = 64 << 10
"""From here on a piece grows no more."""
_PIECE = re.compile(KEPT + r"/(\d{6})/events-(\d{12})-(\d{12})\.jsonl")
_DOCUMENT = re.compile(KEPT + r"/(\d{6})/([a-z]+\.(?:json|html))")
_LOOKS = 5
"""How often the pieces are listed again when one of them was replaced meanwhile."""


@dataclass(slots=True)
class Keeping:
    """What one incarnation of a run keeps for its report. Calls come from one thread at a time.

    Attributes:
        store: rooted at the run's address, which this incarnation has claimed.
        log: the event log on this machine; it only grows.
        generation: of the claim.
        base: byte of the log at which this incarnation's lines begin.
    """

    store: Store
    log: Path
    generation: int
    base: int
    _begin: int = field(default=0, init=False)
    _end: int = field(default=0, init=False)

    def keep_log(self) -> None:
        """Keep the whole lines that have been logged since the last call.

        Raises:
            StorageDenied, StorageUnavailable: as the store says; nothing is lost, and the next call goes on.
            OSError: the log cannot be read.
        """
        with self.log.open("rb") as file:
            while True:
                file.seek(self.base + self._begin)
                data = file.read(PIECE_BYTES)
                is_full = len(data) == PIECE_BYTES
                if is_full and not data.endswith(b"\n"):
                    data += file.readline()
                piece = data[: data.rfind(b"\n") + 1]
                self._replace(piece)
                if not is_full or not piece:
                    return
                self._begin = self._end

    def keep(self, name: str, content: bytes) -> None:
        """Keep a document, once for each name.

        Raises:
            StorageDenied, StorageUnavailable: as the store says.
        """
        self.store.put(_key(self.generation, name), content)

    def _replace(self, piece: bytes) -> None:
        """Write the piece that begins where the present one does, unless it has grown by nothing."""
        end = self._begin + len(piece)
        if end <= self._end:
            return
        self.store.put(self._piece_key(end), b"".join(map(_without_secrets, piece.splitlines(keepends=True))))
        shorter, self._end = self._end, end
        if shorter > self._begin:
            # A store that keeps everything, or does not answer now, is left with pieces that nobody reads.
            with suppress(StorageDenied, StorageUnavailable):
                self.store.delete([self._piece_key(shorter)])

    def _piece_key(self, end: int) -> str:
        return _key(self.generation, _piece(self._begin, end))


def _without_secrets(line: bytes) -> bytes:
    """Redact the strings of a line, so that it stays JSON; one that is none, as text. Most lines stay as they are."""
    try:
        said = orjson.loads(line)
        clean = _redacted(said)
        return line if clean == said else orjson.dumps(clean, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONDecodeError:
        return redact(line.decode(errors="replace")).encode()


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class KeptReport:
    """What is kept of a run.

    Attributes:
        events: log lines of all incarnations, in order; empty when nothing is kept.
        documents: the newest of each name but `PAGE`.
        page: the finished page, if no later incarnation has kept anything.
    """

    events: bytes
    documents: Mapping[str, bytes]
    page: bytes | None


def read_events(store: Store) -> bytes:
    """Return the kept log lines of all incarnations, in order; empty without any.

    Raises:
        StorageDenied, StorageUnavailable: as the store says; also when pieces are replaced faster than they are read.
    """
    return _settled(store, lambda keys: _events(store, keys))


def read_report(store: Store) -> KeptReport:
    """Return all that is kept of a run.

    Raises:
        StorageDenied, StorageUnavailable: as the store says; also when pieces are replaced faster than they are read.
    """
    return _settled(store, lambda keys: _read(store, keys))


def _settled(store: Store, read: Callable[[Sequence[str]], T]) -> T:
    for _ in range(_LOOKS):
        with suppress(NotFound):  # the run has just replaced a piece by a longer one
            return read([info.key for info in store.list_objects(KEPT)])
    raise StorageUnavailable(f"{store.address}: what is kept changes faster than it can be read; try again")


def _read(store: Store, keys: Sequence[str]) -> KeptReport:
    documents: dict[str, tuple[int, str]] = {}
    for key in keys:
        if match := _DOCUMENT.fullmatch(key):
            documents[match[2]] = max((int(match[1]), key), documents.get(match[2], (0, "")))
    page = documents.pop(PAGE, None)
    newest = max([*_spans(keys), *(generation for generation, _ in documents.values())], default=0)
    return KeptReport(
        events=_events(store, keys),
        documents={name: store.get(key) for name, (_, key) in documents.items()},
        page=store.get(page[1]) if page is not None and page[0] >= newest else None,
    )


def _events(store: Store, keys: Sequence[str]) -> bytes:
    return b"".join(
        store.get(_key(generation, _piece(begin, end)))
        for generation, spans in sorted(_spans(keys).items())
        for begin, end in chain(spans)
    )


def _spans(keys: Sequence[str]) -> Mapping[int, list[tuple[int, int]]]:
    """Begin and end of each incarnation's pieces, by generation."""
    found: dict[int, list[tuple[int, int]]] = {}
    for key in keys:
        if match := _PIECE.fullmatch(key):
            generation, begin, end = (int(part) for part in match.groups())
            found.setdefault(generation, []).append((begin, end))
    return found


def _piece(begin: int, end: int) -> str:
    return f"events-{begin:012d}-{end:012d}.jsonl"


def _key(generation: int, name: str) -> str:
    return f"{KEPT}/{generation:06d}/{name}"
