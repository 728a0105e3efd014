"""The node's cache of image files: shared by its processes, bounded, checked by content, and never a reason to fail.

    images/users      held by every process that uses the cache
    images/ledger     bytes used
    images/tmp/       files that are being written
    images/ab/abcd..  one image: a header with size and hash, then its bytes; named by what it is (see `entry_name`)

A file appears by renaming, whole. What a killed process leaves in tmp/ is removed by the next process that finds the
cache unused; that process also counts the files anew. Files are taken in until the limit is reached and none is removed
for another one of the same data set, so that a set larger than the cache keeps what it has. A process that found the
cache unused may remove files that its own data sets do not name, those read longest ago first.
"""

import fcntl
import hashlib
import os
import shutil
import struct
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import xxhash

from sam3ft_trainer.data.figures import Figures
from sam3ft_trainer.data.ledger import Ledger

LOW_WATER = 0.9
"""Once full, the cache takes files in again when it has fallen to this share of its limit."""
TOUCH_AFTER_S = 3600.0
"""The time of a file's last reading is kept to the hour, so that reading does not write."""
_MAGIC = b"SAM3IMG1"
_HEADER = struct.Struct("<8s32sq16s")
_BLOCK = 4096


def entry_name(*identity: str) -> str:
    """Return the name of an entry: the hex SHA-256 of what tells its content from any other."""
    return hashlib.sha256("\x1f".join(identity).encode("utf-8", "surrogateescape")).hexdigest()


class ImageCache:
    """One process's hold on the cache of its node. Methods may be called from many threads and raise nothing.

    The files stay at most at the limit, and what threads are writing comes on top: one file each.
    """

    def __init__(self, folder: Path, figures: Figures, *, limit_bytes: int | None = None) -> None:
        """Open or make the cache.

        Args:
            folder: of the node's caches; `images/` below it is used.
            figures: told of hits, damage and refusals.
            limit_bytes: most bytes of all files; None takes what the first process has set: half of what was free.

        Raises:
            OSError: the folder cannot be used.
        """
        self._root, self._figures = folder / "images", figures
        (self._root / "tmp").mkdir(parents=True, exist_ok=True)
        self._users = os.open(self._root / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._ledger = Ledger(self._root / "ledger")
        self._wanted: set[str] = set()
        self._strangers: list[Path] | None = None
        self._failed = ""
        self._opened_at = time.time()
        self.was_unused = _try_lock(self._users)
        if self.was_unused:
            self._begin(limit_bytes)
        fcntl.flock(self._users, fcntl.LOCK_SH)
        self.limit_bytes = self._ledger.limit if limit_bytes is None else limit_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of all files, in whole blocks."""
        return self._ledger.used

    @property
    def failure(self) -> str:
        """Why nothing is taken in any more: the words of the disk's failure; empty while all is well."""
        return self._failed

    def want(self, names: Iterable[str]) -> None:
        """Say which entries this process's data sets have; others may be removed to make room for them."""
        if self.was_unused:
            self._wanted.update(names)

    def get(self, name: str) -> bytes | None:
        """Return an entry's bytes, or None; a damaged file is removed and counted."""
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._figures.add(misses=1)
            return None
        except OSError as error:
            self._unreadable(error)
            return None
        try:
            content = self._read(descriptor, name)
        except OSError as error:
            self._unreadable(error)
            return None
        finally:
            os.close(descriptor)
        if content is None:
            self._figures.add(damaged=1, misses=1)
            self._drop(path)
            return None
        self._figures.add(hits=1, hit_bytes=len(content))
        return content

    def put(self, name: str, content: bytes) -> None:
        """Take an entry in if there is room; what cannot be kept is counted."""
        size = _on_disk(_HEADER.size + len(content))
        if self._failed or not self._has_room(size):
            self._figures.add(refused=1)
            return
        partial = self._root / "tmp" / uuid.uuid4().hex
        try:
            _write(partial, name, content)
            self._admit(partial, self._path(name), size)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            self._fail(error)

    def close(self) -> None:
        """Let go of the cache; its files stay. Safe to call twice."""
        users, self._users = self._users, -1
        if users >= 0:
            os.close(users)
            self._ledger.close()

    def _path(self, name: str) -> Path:
        return self._root / name[:2] / name

    def _begin(self, limit_bytes: int | None) -> None:
        """Nobody else uses the cache: remove what a killed process left, count the rest, set the limit."""
        for partial in (self._root / "tmp").iterdir():
            partial.unlink(missing_ok=True)
        for number in range(256):
            (self._root / f"{number:02x}").mkdir(exist_ok=True)
        used = sum(_on_disk(path.stat().st_size) for path in self._files())
        free = shutil.disk_usage(self._root).free
        limit = (free + used) // 2 if limit_bytes is None else limit_bytes
        with self._ledger.locked():
            self._ledger.write(used=used, limit=limit, is_full=False)

    def _files(self) -> list[Path]:
        return [path for folder in self._root.iterdir() if len(folder.name) == 2 for path in folder.iterdir()]

    def _read(self, descriptor: int, name: str) -> bytes | None:
        """Return the content of an open file; None unless it is whole and what `name` stands for."""
        status = os.fstat(descriptor)
        header = os.read(descriptor, _HEADER.size)
        if len(header) < _HEADER.size:
            return None
        magic, told_name, size, told_hash = _HEADER.unpack(header)
        if magic != _MAGIC or told_name.hex() != name or size != status.st_size - _HEADER.size:
            return None
        content = os.read(descriptor, size)
        if len(content) != size or xxhash.xxh3_128_digest(content) != told_hash:
            return None
        if time.time() - status.st_mtime > TOUCH_AFTER_S:
            os.utime(descriptor)
        return content

    def _drop(self, path: Path) -> None:
        with suppress(OSError), self._ledger.locked():
            size = path.stat().st_size
            path.unlink()
            self._ledger.write(used=self._ledger.used - _on_disk(size))

    def _has_room(self, size: int) -> bool:
        ledger = self._ledger
        if not ledger.is_full and ledger.used + size <= self.limit_bytes:
            return True
        if self.was_unused and self._strangers != []:
            self._remove_strangers()
        with ledger.locked():
            if ledger.is_full and ledger.used <= LOW_WATER * self.limit_bytes:
                ledger.write(is_full=False)
            elif ledger.used + size > self.limit_bytes:
                ledger.write(is_full=True)
            return not ledger.is_full

    def _admit(self, partial: Path, path: Path, size: int) -> None:
        with self._ledger.locked():
            used = self._ledger.used
            is_there, fits = path.exists(), used + size <= self.limit_bytes
            if is_there or not fits:
                partial.unlink()
            else:
                # First the count: a kill between the two leaves it too high by one file, never too low.
                self._ledger.write(used=used + size)
                partial.rename(path)
        self._figures.add(**({"refused": 1} if not (is_there or fits) else {"stored": 1}))

    def _remove_strangers(self) -> None:
        """Remove files of other data sets, those read longest ago first, down to the low water."""
        with self._ledger.locked():
            if self._strangers is None:
                # What came since belongs to processes that joined later, perhaps of another run: it stays.
                uses = ((_last_use(path), path) for path in self._files() if path.name not in self._wanted)
                self._strangers = [path for use, path in sorted(uses, reverse=True) if use < self._opened_at]
            used = self._ledger.used
            while self._strangers and used > LOW_WATER * self.limit_bytes:
                path = self._strangers.pop()
                with suppress(OSError):
                    size = path.stat().st_size
                    path.unlink()
                    used -= _on_disk(size)
                    self._figures.add(evicted=1)
            self._ledger.write(used=used)

    def _unreadable(self, error: OSError) -> None:
        self._figures.add(misses=1)
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        """The disk does not play along: read on without taking anything in."""
        self._figures.add(cache_failures=1)
        self._failed = self._failed or f"{self._root}: {error.strerror or error}"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, name: str, content: bytes) -> None:
    header = _HEADER.pack(_MAGIC, bytes.fromhex(name), len(content), xxhash.xxh3_128_digest(content))
    with path.open("xb", buffering=0) as file:
        for part in (header, content):
            rest = memoryview(part)
            while rest:
                rest = rest[file.write(rest) :]


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
