"""What a worker does so that its last lines outlive it: as its last act, or at the next start after a kill.

The launcher cannot reach the store and a killed process can do nothing any more. So each worker leaves a mark while it
runs, which its Python-level end removes; a worker that finds the mark of its rank's predecessor keeps the lines that
one left in the log on this node. Only whoever has claimed the run writes to its address.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.files import write_atomically
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.tails import CONTEXT_BYTES, TAIL_BYTES, keep_tail

LAST_ACT_S = 5.0
"""How long a worker tries to keep its lines before it ends."""
_QUIET = frozenset(
    {
        ExitCode.SUCCEEDED,
        ExitCode.INTERRUPTED,
        ExitCode.REGROUP,
        ExitCode.PEER_LOST,  # it says that another rank failed
        ExitCode.FENCED,  # the address belongs to another incarnation
        ExitCode.STORAGE_UNAVAILABLE,  # there is nobody to give them to
        ExitCode.TERMINATED,
    }
)
"""Ends whose lines explain nothing, or cannot be kept."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _LeftBehind:
    """What a killed predecessor said last."""

    attempt: int
    text: str


class LastLines:
    """The lines of one rank's workers, one after the other."""

    def __init__(self, work_dir: Path, *, rank: int, attempt: int) -> None:
        """Look for the mark of a predecessor, and leave one.

        Args:
            work_dir: of the run on this node.
            rank: global rank.
            attempt: from 1.
        """
        self._log = work_dir / "logs" / f"rank-{rank}.log"
        self._mark = work_dir / "logs" / f"rank-{rank}.running"
        self._rank, self._attempt = rank, attempt
        self._start = _size(self._log)
        self._left_behind = self._find_left_behind()
        with suppress(OSError):
            self._mark.parent.mkdir(exist_ok=True)
            write_atomically(self._mark, json.dumps({"attempt": attempt, "start": self._start}))

    def keep_left_behind(self, store: Store) -> threading.Thread | None:
        """Keep, in the background, what a predecessor that was killed said last; None without one."""
        found = self._left_behind
        if found is None:
            return None
        return _in_background(
            lambda: keep_tail(store, found.text, attempt=found.attempt, rank=self._rank, end="killed")
        )

    def keep_own(self, store: Store | None, code: int, words: str) -> None:
        """Keep this worker's last lines if its end is a failure that they explain; gives up after five seconds.

        Args:
            store: of the run, None if it has not been claimed.
            code: exit code.
            words: what was said last, for a worker whose output goes nowhere.
        """
        if store is None or code in _QUIET:
            return
        text = _tail(self._log, self._start, _size(self._log)) or words
        thread = _in_background(
            lambda: keep_tail(store, text, attempt=self._attempt, rank=self._rank, end=str(int(code)))
        )
        thread.join(LAST_ACT_S)

    def close(self) -> None:
        """Remove the mark: this end was not a kill."""
        with suppress(OSError):
            self._mark.unlink()

    def _find_left_behind(self) -> _LeftBehind | None:
        try:
            mark = json.loads(self._mark.read_text())
            attempt, start = int(mark["attempt"]), int(mark["start"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        log = self._log
        if start > self._start:  # the log has begun anew since
            log = log.with_name(f"{log.name}.1")
        text = _tail(log, start, min(_size(log), self._start) if log == self._log else _size(log))
        return _LeftBehind(attempt, text) if text.strip() else None


def _in_background(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - edge of the thread: the run does not depend on it
            _log.warning("the last lines could not be kept: %s", error)

    thread = threading.Thread(target=run, name="last-lines", daemon=True)
    thread.start()
    return thread


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tail(path: Path, start: int, end: int) -> str:
    """Return the bytes up to `end` as text, none before `start` and not many more than are kept."""
    try:
        with path.open("rb") as file:
            begin = max(start, end - TAIL_BYTES - CONTEXT_BYTES)
            file.seek(begin, os.SEEK_SET)
            return file.read(max(0, end - begin)).decode(errors="replace")
    except OSError:
        return ""
