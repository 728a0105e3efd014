"""What a run's report is made of, kept beside its history, so that there is a report when its machines are gone.

    report/config.json                                     settings of the newest incarnation
    report/dataset.json                                    account of its splits
    report/scores.json                                     scores of the end
    report/events/000003-000000000000-000000004096.jsonl   incarnation; bytes of what it has logged, redacted
    report/000003.html                                     the page that an incarnation made at the run's end

A piece grows until it is full: the longer one is written, then the shorter one deleted. Whoever reads takes the longest
of several, and goes from piece to piece, each beginning where the last one ends.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sam3ft_api.errors import StorageUnavailable
from sam3ft_api.redact import redact
from sam3ft_trainer.store.objects import NotFound, Store

REPORT = "report"
"""Prefix of it all."""
PIECE_BYTES = 1 << 20
"""From here on a piece grows no more."""
_EVENTS = f"{REPORT}/events"
_CONFIG, _DATASET, _SCORES = f"{REPORT}/config.json", f"{REPORT}/dataset.json", f"{REPORT}/scores.json"
_PIECE = re.compile(r"(\d{6})-(\d{12})-(\d{12})\.jsonl")
_PAGE = re.compile(r"(\d{6})\.html")
_LOOKS = 5
"""How often the pieces are listed again when one of them was replaced meanwhile."""


@dataclass(slots=True)
class KeptEvents:
    """What one incarnation of a run has logged, as it is kept. Calls come from one thread at a time.

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

    def keep(self) -> None:
        """Keep the whole lines that have been logged since the last call.

        Raises:
            StorageDenied, StorageUnavailable: as the store says; nothing is lost, and the next call goes on.
            OSError: the log cannot be read.
        """
        with self.log.open("rb") as file:
            is_full = True
            while is_full:
                file.seek(self.base + self._begin)
                data = file.read(PIECE_BYTES)
                is_full = len(data) == PIECE_BYTES
                if is_full and not data.endswith(b"\n"):
                    data += file.readline()
                self._replace(data[: data.rfind(b"\n") + 1])
                if is_full:
                    self._begin = self._end

    def _replace(self, piece: bytes) -> None:
        """Write the piece that begins where the present one does, unless it has grown by nothing."""
        end = self._begin + len(piece)
        if end <= self._end:
            return
        self.store.put(self._key(end), redact(piece.decode(errors="replace")).encode())
        shorter, self._end = self._end, end
        if shorter > self._begin:
            with suppress(NotFound):
                self.store.delete([self._key(shorter)])

    def _key(self, end: int) -> str:
        return f"{_EVENTS}/{self.generation:06d}-{self._begin:012d}-{end:012d}.jsonl"


@dataclass(frozen=True, slots=True)
class KeptReport:
    """What is kept of a run.

    Attributes:
        events: log lines of all incarnations, in order; empty when nothing is kept.
        config: settings, JSON of `TrainingConfig`; None when they are not kept.
        dataset: account of the splits by name, JSON; None when it is not kept.
        scores: of the end, JSON; None before.
        page: the finished page, if no incarnation has logged anything since it was made.
    """

    events: bytes
    config: bytes | None
    dataset: bytes | None
    scores: bytes | None
    page: bytes | None


def keep_documents(store: Store, *, config: str, dataset: str) -> None:
    """Keep what a report says about settings and data, in place of what an earlier incarnation has kept.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    store.put(_CONFIG, config.encode())
    store.put(_DATASET, dataset.encode())


def keep_scores(store: Store, scores: bytes) -> None:
    """Keep the scores of the end.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    store.put(_SCORES, scores)


def keep_page(store: Store, page: bytes, *, generation: int) -> None:
    """Keep the page that an incarnation has made at the end of the run.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    store.put(f"{REPORT}/{generation:06d}.html", page)


def read_events(store: Store) -> bytes:
    """Return the kept log lines of all incarnations, in order; empty without any.

    Raises:
        StorageDenied, StorageUnavailable: as the store says; also when pieces are replaced faster than they are read.
    """
    for _ in range(_LOOKS):
        with suppress(NotFound):  # the run has just replaced it by a longer one
            return b"".join(store.get(key) for pieces in _pieces(store).values() for key in pieces)
    raise StorageUnavailable(f"{store.address}: the kept events change faster than they can be read; try again")


def read_report(store: Store) -> KeptReport:
    """Return all that is kept of a run.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    generations = _pieces(store)
    pages = {int(match[1]): key for key, match in _named(store, REPORT, _PAGE)}
    newest = max(pages, default=0)
    is_last_word = bool(pages) and newest >= max(generations, default=0)
    return KeptReport(
        events=read_events(store),
        config=_content(store, _CONFIG),
        dataset=_content(store, _DATASET),
        scores=_content(store, _SCORES),
        page=_content(store, pages[newest]) if is_last_word else None,
    )


def _content(store: Store, key: str) -> bytes | None:
    with suppress(NotFound):
        return store.get(key)
    return None


def _pieces(store: Store) -> Mapping[int, list[str]]:
    """Keys of each incarnation's pieces in order, by generation."""
    found: dict[int, dict[int, tuple[int, str]]] = {}
    for key, match in _named(store, _EVENTS, _PIECE):
        generation, begin, end = (int(part) for part in match.groups())
        if end > begin:
            by_begin = found.setdefault(generation, {})
            by_begin[begin] = max((end, key), by_begin.get(begin, (0, "")))
    return {generation: _chain(found[generation]) for generation in sorted(found)}


def _chain(by_begin: Mapping[int, tuple[int, str]]) -> list[str]:
    keys, at = [], 0
    while at in by_begin:
        at, key = by_begin[at]
        keys.append(key)
    return keys


def _named(store: Store, prefix: str, name: "re.Pattern[str]") -> list[tuple[str, "re.Match[str]"]]:
    keys = [info.key for info in store.list_objects(prefix)]
    return [
        (key, match)
        for key in keys
        if key.rpartition("/")[0] == prefix and (match := name.fullmatch(key.rpartition("/")[2])) is not None
    ]
