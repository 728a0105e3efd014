"""The bytes in a folder that several processes fill, in one small file that all of them map."""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAGIC = b"SAM3LGR1"
_FIELDS = struct.Struct("<8sqqq")


class Ledger:
    """Used bytes, their limit, and whether the folder is full, shared by processes and threads.

    Values may be read at any time; they are changed inside `locked()` alone. The lock goes with the process that holds
    it, so a killed one leaves at most the change it was about to make undone.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            OSError: the folder cannot be written, or the file system has no locks.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._thread_lock = threading.Lock()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if os.fstat(self._descriptor).st_size != _FIELDS.size:
                # Written, not only made longer: on a full disk this fails here, and not later as a fault in the map.
                os.pwrite(self._descriptor, _FIELDS.pack(_MAGIC, 0, 0, 0), 0)
                os.ftruncate(self._descriptor, _FIELDS.size)
            self._map = mmap.mmap(self._descriptor, _FIELDS.size)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except (OSError, ValueError):
            os.close(self._descriptor)
            raise

    @property
    def used(self) -> int:
        """Bytes on the disk, in whole blocks."""
        return self._read()[0]

    @property
    def limit(self) -> int:
        """Most bytes, as the process that opened the folder first has set it."""
        return self._read()[1]

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken in for now."""
        return bool(self._read()[2])

    def write(self, *, used: int | None = None, limit: int | None = None, is_full: bool | None = None) -> None:
        """Change what is given; only inside `locked()`."""
        old_used, old_limit, old_full = self._read()
        fields = (
            max(0, old_used if used is None else used),
            old_limit if limit is None else limit,
            old_full if is_full is None else int(is_full),
        )
        _FIELDS.pack_into(self._map, 0, _MAGIC, *fields)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes and threads out of `locked()`."""
        with self._thread_lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._map.close()
            os.close(descriptor)

    def _read(self) -> tuple[int, int, int]:
        magic, used, limit, full = _FIELDS.unpack_from(self._map, 0)
        return (used, limit, full) if magic == _MAGIC else (0, 0, 0)
