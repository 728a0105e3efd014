"""Requests of the launcher, read between steps; a signal handler could be stuck behind a collective."""

import time
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.worker import Flag, FlagKind


class FlagReader:
    """Polls one flag file; costs one `stat` a step."""

    def __init__(self, path: Path | None) -> None:
        """Watch `path`; None never sees a request (a worker without a launcher)."""
        self._path = path

    def poll(self) -> Flag | None:
        """Return the request that stands in the file now, None without one.

        A file that cannot be understood is taken as an eviction: somebody asked to stop, and to stop with a
        checkpoint is the safe reading.
        """
        if self._path is None:
            return None
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return None
        try:
            return Flag.model_validate_json(text)
        except ValidationError:
            return Flag(kind=FlagKind.EVICT)


def seconds_left(flag: Flag, *, now_unix_s: float | None = None) -> float | None:
    """Return the seconds until the launcher kills, never negative; None without a deadline."""
    if flag.deadline_unix_s is None:
        return None
    return max(0.0, flag.deadline_unix_s - (time.time() if now_unix_s is None else now_unix_s))
