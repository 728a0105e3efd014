"""A copy of the newest commit on the node's cache volume: written behind the upload, never trusted, never waited for.

    CACHE/commits/5f2c.../ckpt/g0001-s00000200-1a2b3c4d-1/model-00001-of-00002.safetensors ...

One folder for each run address, one commit in it. Every rank writes its own share, so that a node holds what its ranks
have written. A file is used at restore when its size and its hash are those in the commit's log entry; otherwise it is
removed and the store's file is read.
"""

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from obstore.store import LocalStore

from sam3ft_trainer.store.log import CHECKPOINTS
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.records import FileRecord

COPIES = "commits"
"""Folder of the copies inside the cache folder."""
_PIECE_BYTES = 4 << 20
_RESERVE_SHARE = 0.02
"""Share of the disk that stays free."""
_STALE_S = 86_400.0
"""Copies of other runs that were not written for this long give way where there is no room."""


class Superseded(Exception):
    """The memory that was being copied is needed for the next save."""


class NodeCopy:
    """This node's copy of one run's newest commit. No method raises because of the disk: a copy is only a help."""

    def __init__(
        self, cache_dir: Path, address: str, *, tell: Callable[..., None], clock: Callable[[], float] = time.time
    ) -> None:
        """Make the folder.

        Args:
            cache_dir: folder on this node that outlives a worker.
            address: of the run.
            tell: takes events.
            clock: seconds since the epoch.
        """
        self.folder = cache_dir / COPIES / hashlib.sha256(address.encode()).hexdigest()[:24]
        self.damaged = 0
        self.used_bytes = 0
        self._tell, self._clock = tell, clock
        self._lock = threading.Lock()
        self._superseded = 0
        self._store: Store | None = None
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = Store(LocalStore(self.folder), address=str(self.folder), folder=self.folder)

    def supersede(self, number: int) -> None:
        """Stop copying save `number` and those before it; once this returns their memory is no longer read."""
        with self._lock:
            self._superseded = max(self._superseded, number)

    def write(self, number: int, files: Mapping[str, memoryview], *, step: int) -> None:
        """Replace the copy by the files of a commit, from memory that `supersede` may take away at any time.

        Args:
            number: of the save.
            files: contents by key.
            step: for the events.
        """
        started, num_bytes = time.monotonic(), sum(len(data) for data in files.values())
        try:
            self._forget_all_but({Path(key).parent.name for key in files})
            self._make_room(num_bytes)
            for key, data in files.items():
                self._write_file(number, self.folder / key, data)
        except Superseded:
            self._give_up(files)
            self._tell("copy_skipped", step=step, message="the next save came before the copy was complete")
        except OSError as error:
            self._give_up(files)
            self._tell("copy_skipped", step=step, message=f"{self.folder}: {error.strerror or error}")
        else:
            seconds = round(time.monotonic() - started, 3)
            self._tell("copy_written", step=step, bytes=num_bytes, seconds=seconds)

    def source(self, file: FileRecord) -> Store | None:
        """Return the store that has a file under its own key; None if there is no copy of its size."""
        try:
            size = (self.folder / file.key).stat().st_size
        except OSError:
            return None
        if size == file.size:
            return self._store
        self.drop(file, f"{size:,} bytes, {file.size:,} were written")
        return None

    def used(self, file: FileRecord) -> None:
        """Count a file that was read from the copy and had the hash of the log."""
        with self._lock:
            self.used_bytes += file.size

    def tell_use(self, *, step: int) -> None:
        """Tell how much of a restored commit came from the copy."""
        if self.used_bytes:
            self._tell("copy_used", step=step, bytes=self.used_bytes, damaged=self.damaged)

    def drop(self, file: FileRecord, reason: str) -> None:
        """Remove a file that is not what the log says, count it and tell."""
        with self._lock:
            self.damaged += 1
        with suppress(OSError):
            (self.folder / file.key).unlink()
        self._tell("copy_damaged", key=file.key, message=reason)

    def _write_file(self, number: int, path: Path, data: memoryview) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f"{path.name}.part")
        with part.open("wb", buffering=0) as file:
            for start in range(0, len(data), _PIECE_BYTES):
                with self._lock:
                    if self._superseded >= number:
                        raise Superseded
                    _write_all(file, data[start : start + _PIECE_BYTES])
        part.replace(path)

    def _give_up(self, files: Mapping[str, Any]) -> None:
        for key in files:
            path = self.folder / key
            for leftover in (path, path.with_name(f"{path.name}.part")):
                with suppress(OSError):
                    leftover.unlink()
            with suppress(OSError):
                path.parent.rmdir()

    def _forget_all_but(self, names: set[str]) -> None:
        base = self.folder / CHECKPOINTS
        for child in base.iterdir() if base.is_dir() else ():
            if child.name not in names:
                shutil.rmtree(child, ignore_errors=True)

    def _make_room(self, num_bytes: int) -> None:
        """Let old copies of other runs give way.

        Raises:
            OSError: there is still not enough room.
        """
        others = [child for child in self.folder.parent.iterdir() if child != self.folder]
        for other in sorted(others, key=_newest_write):
            if self._missing_bytes(num_bytes) <= 0:
                break
            if self._clock() - _newest_write(other) > _STALE_S:
                shutil.rmtree(other, ignore_errors=True)
        if (missing := self._missing_bytes(num_bytes)) > 0:
            raise OSError(f"no room for a copy of {num_bytes:,} bytes, {missing:,} more are needed")

    def _missing_bytes(self, num_bytes: int) -> int:
        disk = shutil.disk_usage(self.folder)
        return num_bytes + int(_RESERVE_SHARE * disk.total) - disk.free


def _write_all(file: Any, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _newest_write(folder: Path) -> float:
    times = [0.0]
    for path in [folder, *folder.rglob("*")]:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)
