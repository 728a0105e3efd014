"""What a run says while it runs: events as JSON lines, progress as one small file, scalars for TensorBoard and sinks.

Only rank 0 speaks; the other ranks hold a silent reporter with the same methods, so that the loop has no branches.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sam3ft_api.files import write_atomically
from sam3ft_api.worker import PROGRESS_FILE, Progress
from sam3ft_trainer.run.sinks.sinks import Sinks

EVENTS_FILE = "events.jsonl"
"""Name of the event log inside the work folder; every attempt appends."""
PROGRESS_INTERVAL_S = 1.0
"""Progress is written at most this often, except when its state changes."""


class Reporter(Protocol):
    """Where the loop reports to."""

    def event(self, name: str, **fields: Any) -> None:
        """Record that something happened; names are constant snake_case words, data goes into fields."""
        ...

    def progress(self, *, force: bool = False, **changes: Any) -> None:
        """Update the fields of `Progress` that changed."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record curves; names with a slash group them."""
        ...

    def close_sinks(self, within_s: float) -> None:
        """End the sinks of curves, and wait for that at most so many seconds; later values go to files alone."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class Silent:
    """The reporter of ranks other than 0."""

    def event(self, name: str, **fields: Any) -> None:
        """Drop the event: rank 0 records the same one."""

    def progress(self, *, force: bool = False, **changes: Any) -> None:
        """Drop the update."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Drop the values."""

    def close_sinks(self, within_s: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class RunReporter:
    """Appends events to `events.jsonl` and standard output, keeps `progress.json`, hands scalars to who wants them."""

    def __init__(
        self,
        work_dir: Path,
        *,
        run: str,
        attempt: int,
        tensorboard: bool,
        echo: bool = True,
        sinks: Sinks | None = None,
    ) -> None:
        """Open the files of this attempt.

        Args:
            work_dir: existing folder of the run on this node.
            run: name put into every event.
            attempt: number put into every event.
            tensorboard: also write TensorBoard scalars under `work_dir/tensorboard`.
            echo: also print events to standard output, one JSON object a line.
            sinks: get the same scalars; None without any. Closed with this reporter.
        """
        self._log = (work_dir / EVENTS_FILE).open("a", buffering=1)
        self._progress_path = work_dir / PROGRESS_FILE
        self._progress: dict[str, Any] = {"state": "loading"}
        self._written = 0.0
        self._head = {"run": run, "attempt": attempt}
        self._echo = echo
        self._board_folder = work_dir / "tensorboard" if tensorboard else None
        self._board: Any = None
        self._sinks = sinks or Sinks()
        self._has_closed_sinks = False

    def event(self, name: str, **fields: Any) -> None:
        """Append one line (`sam3ft_api.log_lines`); numbers that JSON does not have (NaN, infinities) become null."""
        record = {"ts": round(time.time(), 3), "event": name, **self._head, **_clean(fields)}
        line = json.dumps(record)
        self._log.write(line + "\n")
        if self._echo:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def progress(self, *, force: bool = False, **changes: Any) -> None:
        """Merge `changes` and write the file if a second has passed, the state has changed or `force` is set.

        Raises:
            TypeError: when it is written, `Progress` has no such field: read back, it would be left out without a word.
        """
        is_new_state = changes.get("state", self._progress["state"]) != self._progress["state"]
        self._progress |= changes
        self._tell_sinks()
        now = time.monotonic()
        if force or is_new_state or now - self._written >= PROGRESS_INTERVAL_S:
            self._write_progress()
            self._written = now

    def _write_progress(self) -> None:
        progress = self._progress
        if sinks := self._sinks.figures():
            progress = progress | {"figures": {**(progress.get("figures") or {}), "sinks": sinks}}
        # Validated when it is written, not at each of many steps a second.
        if unknown := progress.keys() - Progress.model_fields.keys():
            raise TypeError(f"Progress has no {', '.join(sorted(unknown))}")
        write_atomically(self._progress_path, Progress.model_validate(_clean(progress)).model_dump_json())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write each finite value as a TensorBoard scalar, and hand it to the sinks."""
        self._sinks.offer(step, values)
        self._tell_sinks()
        if self._board_folder is not None:
            if self._board is None:
                self._board = _open_board(self._board_folder)
            for name, value in values.items():
                if math.isfinite(value):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write the last progress and close all files; sinks that have not been closed are left as they are."""
        try:
            self.close_sinks(0.0)
            self._write_progress()
        finally:
            self._log.close()
            if self._board is not None:
                self._board.close()

    def _tell_sinks(self) -> None:
        for news in self._sinks.news():
            self.event("sink_failed", **news)

    def close_sinks(self, within_s: float) -> None:
        """End the sinks, and tell what has become of the values; once."""
        if self._has_closed_sinks:
            return
        self._has_closed_sinks = True
        self._sinks.close(is_complete=self._progress["state"] == "finished", within_s=within_s)
        self._tell_sinks()
        if figures := self._sinks.figures():
            self.event("sinks_closed", sinks=figures)


def _open_board(folder: Path) -> Any:
    # With the first values, after the first step where no baseline is scored: all ranks would wait for the import.
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    return SummaryWriter(log_dir=str(folder))


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
