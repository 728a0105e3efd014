"""One thin layer over obstore: seven operations on keys, errors with exit codes, durable folders.

An object store and a folder behave alike here. Keys are relative to the store's root, with `/` between parts.
obstore's runtime does not survive a fork, so a forked child that uses a store is stopped with an explanation.
"""

import functools
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import obstore
from obstore import exceptions as obe
from obstore.store import ObjectStore

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.store import folder as folders
from sam3ft_trainer.store.backends import Backends
from sam3ft_trainer.store.causes import Cause, Kind, cause_of

if TYPE_CHECKING:  # exists for type checkers only
    from obstore import ObjectMeta

P = ParamSpec("P")
T = TypeVar("T")
PART_BYTES = 16 << 20
"""Size of the pieces in which large objects are written; the fastest of those tried on disks and on S3."""
LARGE_PUT_BYTES = 8 << 20
"""From here on an object is written in pieces."""
READ_OUTAGE_S = 120.0  # how long an unanswered request is repeated where somebody waits in front of it
_CONFLICT_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # after each a creation that met another one is repeated
_runtime_pid: list[int] = []


class NotFound(StorageDenied):
    """There is no such object."""


class NoRoom(StorageDenied):
    """The disk or the quota is full."""


class AlreadyExists(Exception):
    """The key is taken; nothing was written."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says about one object.

    Attributes:
        key: relative to the store's root.
        size: bytes.
        modified_unix_s: time of the last write, seconds since the epoch.
        etag: the store's mark of this content; empty where it gives none.
    """

    key: str
    size: int
    modified_unix_s: float
    etag: str = ""


@dataclass(frozen=True, slots=True)
class PrefixInfo:
    """One direct child "folder" of a prefix.

    Attributes:
        prefix: relative to the store's root, without a trailing slash.
        modified_unix_s: newest write below it, seconds since the epoch.
    """

    prefix: str
    modified_unix_s: float


class _Beyond(Exception):
    """The range begins behind the object's end."""


class _Conflict(Exception):
    """Another creation of the key was under way; nothing was written."""


_BY_KEY = {Kind.EXISTS: AlreadyExists, Kind.CONFLICT: _Conflict, Kind.BEYOND: _Beyond}


def _renewing(method: "Callable[Concatenate[Store, P], T]") -> "Callable[Concatenate[Store, P], T]":
    """Repeat a refused call once when the store's credentials have changed since it was opened."""

    @functools.wraps(method)
    def call(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
        used = self._backends
        try:
            return method(self, *args, **kwargs)
        except StorageDenied as error:
            if isinstance(error, NotFound | NoRoom) or not self._renewed(used):
                raise
        return method(self, *args, **kwargs)

    return call


class Store:
    """Objects under one root. Methods may be called from any thread; none may be called after a fork.

    Errors of every method: `StorageDenied` (refused), its kinds `NotFound` and `NoRoom`, or `StorageUnavailable`
    (no answer, trying again may help). Messages name the address and the key, never a credential.
    """

    def __init__(
        self,
        backend: ObjectStore | Backends,
        *,
        address: str,
        folder: Path | None = None,
        fenced: bool = True,
        reopen: Callable[[], Backends | None] | None = None,
    ) -> None:
        """Wrap an obstore store.

        Args:
            backend: store or clients of a bucket, rooted where keys start.
            address: what users call it; goes into messages.
            folder: its root on this machine when it is a folder; writes are then flushed to the disk.
            fenced: False emulates `put_if_absent` for stores without conditional writes (look, then write).
            reopen: asked after a refusal; returns new clients if credentials have changed, else None.
        """
        self._backends = backend if isinstance(backend, Backends) else Backends(backend, backend, "", ())
        self.address = address
        self.folder = folder
        self.fenced = fenced
        self._reopen = reopen
        self._reopening = threading.Lock()

    @property
    def _backend(self) -> ObjectStore:
        return self._backends.store

    @property
    def endpoint(self) -> str:
        """URL of the service; empty for anything else."""
        return self._backends.endpoint

    @_renewing
    def get(self, key: str) -> bytes:
        """Return a whole object."""
        with self._translated(key):
            return obstore.get(self._backend, key).bytes().to_bytes()

    @_renewing
    def get_with_info(self, key: str) -> tuple[bytes, ObjectInfo]:
        """Return a whole object, and what the same answer says about it.

        Raises:
            StorageUnavailable: also when fewer bytes came than were announced.
        """
        with self._translated(key):
            answer = obstore.get(self._backend, key)
            info = _info(key, answer.meta)
            content = answer.bytes().to_bytes()
        if len(content) != info.size:
            raise StorageUnavailable(
                f"{self.address}, object {key!r}: {len(content):,} of {info.size:,} bytes came, the rest is missing"
            )
        return content, info

    @_renewing
    def get_range(self, key: str, start: int, length: int) -> memoryview:
        """Return `length` bytes from `start` on, fewer where the object ends; without a copy."""
        try:
            with self._translated(key):
                return memoryview(obstore.get_range(self._backend, key, start=start, length=length))
        except _Beyond:
            return memoryview(b"")

    @_renewing
    def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        with suppress(NotFound), self._translated(key):
            return _info(key, obstore.head(self._backend, key))
        self.get_range(key, 0, 1)  # says why: an answer without a body may also mean the bucket, or unknown keys
        with self._translated(key):
            return _info(key, obstore.head(self._backend, key))

    @_renewing
    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        """Write an object, replacing one of that key; readers see the old or the new one, nothing between.

        Memory is read in place while this blocks (the GIL is released): do not change it meanwhile.
        A path is read in pieces, so that files larger than memory can be written.
        """
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        with self._translated(key, writing=size):
            obstore.put(
                self._backend,
                key,
                data,
                use_multipart=size >= LARGE_PUT_BYTES,
                chunk_size=PART_BYTES,
                max_concurrency=4,
            )
            self._flush(key)

    @_renewing
    def put_if_absent(self, key: str, data: bytes) -> None:
        """Write a small object only if its key is free; of any number of racing writers exactly one succeeds.

        Raises:
            AlreadyExists: the key is taken. After `StorageUnavailable` the object may or may not have been written.
        """
        for pause_s in (*_CONFLICT_PAUSES_S, None):
            try:
                with self._translated(key, writing=len(data)):
                    if self.fenced:
                        obstore.put(self._backends.creating, key, data, mode="create", use_multipart=False)
                    else:
                        self._put_after_looking(key, data)
                    self._flush(key)
            except _Conflict:
                if pause_s is None:
                    break
                time.sleep(pause_s)
            else:
                return
        raise StorageUnavailable(f"{self.address}, object {key!r}: other writers create it again and again")

    @_renewing
    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects below `prefix` (whole path parts), by key; an unknown prefix has none."""
        with self._translated(prefix):
            metas = obstore.list(self._backend, prefix=prefix).collect()
        return sorted((_info(str(meta["path"]), meta) for meta in metas), key=lambda info: info.key)

    def list_prefixes(self, prefix: str) -> list[PrefixInfo]:
        """Return the direct child prefixes of `prefix` by name; in a folder also those with unfinished files only."""
        if self.folder is not None:
            with self._translated(prefix):
                newest = folders.newest_writes(self.folder, prefix)
            return [PrefixInfo(child, when) for child, when in newest.items()]
        newest = {}
        for info in self.list_objects(prefix):
            parts = info.key[len(prefix) + 1 :].split("/")
            if len(parts) > 1:
                child = f"{prefix}/{parts[0]}"
                newest[child] = max(newest.get(child, 0.0), info.modified_unix_s)
        return [PrefixInfo(child, newest[child]) for child in sorted(newest)]

    @_renewing
    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are gone already are no error."""
        for key in keys:
            with suppress(NotFound), self._translated(key):
                obstore.delete(self._backend, key)

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything below `prefix`; in a folder also what killed writers left half-written."""
        self.delete([info.key for info in self.list_objects(prefix)])
        if self.folder is not None and prefix:
            with self._translated(prefix):
                folders.remove_tree(self.folder / prefix)

    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk below a folder; None where nobody can say."""
        return None if self.folder is None else shutil.disk_usage(self.folder).free

    def _put_after_looking(self, key: str, data: bytes) -> None:
        try:
            obstore.head(self._backend, key)
        except FileNotFoundError:
            obstore.put(self._backend, key, data, use_multipart=False)
            return
        raise AlreadyExists(key)

    def _flush(self, key: str) -> None:
        if self.folder is not None:
            folders.flush(self.folder, key)

    def _renewed(self, used: Backends) -> bool:
        """Say whether other clients than the `used` ones are there now, opening them if credentials have changed."""
        with self._reopening:
            if self._backends is used and self._reopen is not None:
                self._backends = self._reopen() or used
            return self._backends is not used

    @contextmanager
    def _translated(self, key: str, *, writing: int | None = None) -> Iterator[None]:
        _refuse_after_fork()
        try:
            yield
        except (obe.BaseError, OSError, ValueError) as error:
            cause = cause_of(error, endpoint=self.endpoint or None)
            # What a server says may repeat what was signed: its words must not hang on as the cause of this error.
            raise self._failure(cause, key, writing) from (None if self.endpoint else error)

    def _failure(self, cause: Cause, key: str, writing: int | None) -> Exception:
        where = f"{self.address}, object {key!r}" if key else self.address
        reason = cause.reason
        for secret in self._backends.secrets:
            reason = reason.replace(secret, "***")
        if cause.kind in _BY_KEY:
            return _BY_KEY[cause.kind](key)
        if cause.kind is Kind.FULL:
            free = self.free_bytes()
            room = "" if free is None else f", {free:,} bytes are free"
            return NoRoom(f"{where}: no room left to write {writing or 0:,} bytes{room}; free some space ({reason})")
        error = {Kind.MISSING: NotFound, Kind.DENIED: StorageDenied}.get(cause.kind, StorageUnavailable)
        return error(f"{where}: {cause.advice} ({reason})")


def with_patience(
    call: Callable[[], T],
    *,
    outage_s: float,
    denied_is_outage: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return `call()`, repeated with growing pauses (0.5 to 30 s) while the store does not answer.

    Only for calls that may be repeated. The budget counts from the first failure.

    Args:
        call: what to do.
        outage_s: budget, s.
        denied_is_outage: also wait when access is refused: credentials that worked before are being renewed.
        clock: monotonic seconds.
        sleep: how to wait.

    Raises:
        StorageUnavailable: still no answer after `outage_s` seconds.
    """
    pause, since = 0.5, None
    while True:
        try:
            return call()
        except (StorageUnavailable, StorageDenied) as error:
            if isinstance(error, NotFound | NoRoom) or (isinstance(error, StorageDenied) and not denied_is_outage):
                raise
            now = clock()
            since = now if since is None else since
            if now - since + pause > outage_s:
                raise StorageUnavailable(
                    f"{error} (for {now - since:.0f} s, the budget is {outage_s:.0f} s)"
                ) from error
            sleep(pause)
            pause = min(30.0, pause * 2)


def probe_fence(store: Store, *, allow_unfenced: bool) -> None:
    """Find out whether a second creation of the same key is refused, and remember it in `store.fenced`.

    Raises:
        StorageDenied: nothing can be written there, or the store cannot fence and `allow_unfenced` is off.
    """
    key = f"probe/{uuid.uuid4().hex}"
    try:
        store.fenced = _second_creation_fails(store, key)
    finally:
        store.delete([key])
    if not store.fenced and not allow_unfenced:
        raise StorageDenied(
            f"{store.address}: the store lets two writers create the same object, so that two incarnations of a run "
            "could both write here. Use another store, or checkpoint.allow_unfenced: true if only one ever runs"
        )


def _second_creation_fails(store: Store, key: str) -> bool:
    try:
        store.put_if_absent(key, b"first")
    except StorageDenied:
        store.put(key, b"plain")  # raises where nothing may be written at all
        return False
    try:
        store.put_if_absent(key, b"second")
    except AlreadyExists:
        return True
    return False


def _info(key: str, meta: "ObjectMeta") -> ObjectInfo:
    return ObjectInfo(key, meta["size"], meta["last_modified"].timestamp(), (meta["e_tag"] or "").strip('"'))


def _refuse_after_fork() -> None:
    pid = os.getpid()
    if not _runtime_pid:
        _runtime_pid.append(pid)
    elif _runtime_pid[0] != pid:
        raise RuntimeError(
            f"process {pid} was forked after process {_runtime_pid[0]} had used a store, where obstore hangs; "
            "start processes with spawn or forkserver"
        )
