"""The last lines of ranks that failed, kept beside the run's history so that they outlive the machine.

logs/a1-rank0-20261125T081500123-15.log        attempt, rank, when it was kept (UTC), exit code or `killed`
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sam3ft_api.redact import redact
from sam3ft_trainer.store.objects import AlreadyExists, NotFound, Store

LOGS = "logs"
"""Prefix of the kept lines."""
TAIL_BYTES = 64 << 10
"""Most bytes that are kept of one end."""
KEPT_TAILS = 200
"""Newest ends whose lines are kept."""
CONTEXT_BYTES = 4 << 10
"""What is looked at before the kept lines, so that no secret is cut in two and passed over."""
_NAME = re.compile(r"a(?P<attempt>\d+)-rank(?P<rank>\d+)-(?P<when>\d{8}T\d{9})-(?P<end>\w+)\.log")


@dataclass(frozen=True, slots=True)
class LogTail:
    """The last lines of one rank.

    Attributes:
        attempt: from 1.
        rank: global rank.
        when: UTC, YYYYMMDDTHHMMSS and milliseconds.
        end: exit code, or `killed` for a process that could not say anything.
        text: redacted.
    """

    attempt: int
    rank: int
    when: str
    end: str
    text: str


def last_lines(text: str) -> str:
    """Return the end of a text without secrets: whole lines, at most `TAIL_BYTES` in UTF-8."""
    data = redact(text).encode()
    if len(data) <= TAIL_BYTES:
        return data.decode()
    cut = data[-TAIL_BYTES:]
    newline = cut.find(b"\n")
    return cut[newline + 1 :].decode(errors="ignore")


def keep_tail(
    store: Store, text: str, *, attempt: int, rank: int, end: str, clock: Callable[[], float] = time.time
) -> str:
    """Keep the last lines of a text, redacted; returns the key.

    Args:
        store: rooted at the run's address, which this process has claimed.
        text: output of the rank.
        attempt: from 1.
        rank: global rank.
        end: exit code, or `killed`.
        clock: seconds since the epoch.

    Raises:
        StorageDenied, StorageUnavailable: at the first refusal or missing answer.
    """
    now = clock()
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f"{int(now * 1000) % 1000:03d}"
    key = f"{LOGS}/a{attempt}-rank{rank}-{when}-{end}.log"
    with suppress(AlreadyExists):
        store.put_if_absent(key, last_lines(text).encode())
    return key


def read_tails(store: Store, *, newest: int = 16) -> list[LogTail]:
    """Return the kept lines of the newest ends, newest first; empty without any.

    Raises:
        StorageDenied, StorageUnavailable: as the store says.
    """
    found = sorted(_names(store), key=lambda item: (item[1]["when"], item[0]), reverse=True)
    tails = []
    for key, match in found[:newest]:
        with suppress(NotFound):
            text = store.get(key).decode(errors="replace")
            tails.append(LogTail(int(match["attempt"]), int(match["rank"]), match["when"], match["end"], text))
    return tails


def forget_old_tails(store: Store, *, keep: int = KEPT_TAILS) -> int:
    """Delete all but the newest; returns how many went. Objects of other names are left."""
    found = sorted(_names(store), key=lambda item: (item[1]["when"], item[0]))
    old = [key for key, _ in found[: max(0, len(found) - keep)]]
    store.delete(old)
    return len(old)


def _names(store: Store) -> list[tuple[str, "re.Match[str]"]]:
    keys = [info.key for info in store.list_objects(LOGS)]
    return [(key, match) for key in keys if (match := _NAME.fullmatch(key.rpartition("/")[2])) is not None]
