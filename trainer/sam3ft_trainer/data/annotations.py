"""From an annotation file to its index; with a cache folder, parsed by one process of the node and mapped by all.

    index/MARK.digest         which content an object's etag stands for
    index/DIGEST.vN           the index of an annotation file, see `nodeindex`
    index/NAME.lock           held by whoever reads and parses; the others wait

A lock goes with the process that holds it. Without a cache folder, or when it cannot be used, every process parses.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from sam3ft_api.errors import InvalidDataset, StorageDenied
from sam3ft_api.files import write_atomically
from sam3ft_trainer.data.coco import parse_coco
from sam3ft_trainer.data.figures import Figures
from sam3ft_trainer.data.imagecache import entry_name
from sam3ft_trainer.data.index import CocoIndex
from sam3ft_trainer.data.nodeindex import INDEX_VERSION, UnusableIndex, read_index, write_index
from sam3ft_trainer.data.remote import ObjectSource
from sam3ft_trainer.data.report import ProblemLog
from sam3ft_trainer.store.objects import NotFound

ANNOTATIONS = "_annotations.coco.json"
UNUSED_AFTER_S = 30 * 86_400.0
"""An index that nobody has opened for so long is removed."""


class AnnotationFile(Protocol):
    """One annotation file, wherever it is."""

    @property
    def address(self) -> str:
        """Where it is, as shown to users."""
        ...

    def mark(self) -> str:
        """Return what tells this content from any other without reading it; empty where nothing does.

        Raises:
            InvalidDataset: there is no such file.
            StorageDenied, StorageUnavailable: it cannot be asked for.
        """
        ...

    def read(self) -> tuple[bytes, str]:
        """Return the content and its mark; raises as `mark` does."""
        ...


class LocalAnnotations:
    """An annotation file in a folder."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read yet."""
        self._path = path

    @property
    def address(self) -> str:
        """The path."""
        return str(self._path)

    def mark(self) -> str:
        """Return nothing: files are read again each time."""
        return ""

    def read(self) -> tuple[bytes, str]:
        """Return the content; see `AnnotationFile.read`."""
        try:
            return self._path.read_bytes(), ""
        except PermissionError as error:
            raise StorageDenied(f"{self.address!r} may not be read; check its permissions") from error
        except OSError as error:
            raise _missing(self.address, str(error.strerror)) from error


class RemoteAnnotations:
    """An annotation file in an object store."""

    def __init__(self, source: ObjectSource, key: str, *, identity: str) -> None:
        """Name the object; nothing is read yet."""
        self._source, self._key, self._identity = source, key, identity

    @property
    def address(self) -> str:
        """The object's address."""
        return f"{self._source.address}/{self._key}"

    def mark(self) -> str:
        """Return what stands for the object's etag; see `AnnotationFile.mark`."""
        try:
            return self._mark(self._source.describe(self._key).etag)
        except NotFound as error:
            raise _missing(self.address, "there is no such object") from error

    def read(self) -> tuple[bytes, str]:
        """Return the content; see `AnnotationFile.read`."""
        try:
            content, info = self._source.read(self._key)
        except NotFound as error:
            raise _missing(self.address, "there is no such object") from error
        return content, self._mark(info.etag)

    def _mark(self, etag: str) -> str:
        return entry_name("annotations", self._identity, self._key, etag) if etag else ""


def load_index(file: AnnotationFile, log: ProblemLog, *, cache: Path | None, figures: Figures) -> CocoIndex:
    """Return the checked index of an annotation file.

    Args:
        file: to read.
        log: receives what `parse_coco` finds, also when another process has parsed.
        cache: folder of the node's caches; None parses here.
        figures: told when the cache cannot be used.

    Raises:
        InvalidDataset, StorageDenied, StorageUnavailable: as `AnnotationFile` and `parse_coco`.
    """
    if cache is not None:
        try:
            return _NodeIndexes(cache / "index", figures).load(file, log)
        except OSError:
            figures.add(cache_failures=1)
    return parse_coco(file.read()[0], log, where=file.address)


class _NodeIndexes:
    """The indexes of one cache folder."""

    def __init__(self, folder: Path, figures: Figures) -> None:
        self._folder, self._figures = folder, figures

    def load(self, file: AnnotationFile, log: ProblemLog) -> CocoIndex:
        """Map what is there, or wait for whoever builds it, or build it.

        Raises:
            OSError: the folder cannot be used.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        mark = file.mark()
        found = self._mapped(self._digest_of(mark), log)
        if found is not None:
            return found
        if mark:
            with self._locked(mark):
                return self._mapped(self._digest_of(mark), log) or self._built(*file.read(), file.address, log)
        content, _ = file.read()
        digest = hashlib.sha256(content).hexdigest()
        with self._locked(digest):
            return self._mapped(digest, log) or self._built(content, "", file.address, log)

    def _digest_of(self, mark: str) -> str:
        if not mark:
            return ""
        try:
            return (self._folder / f"{mark}.digest").read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.v{INDEX_VERSION}"

    def _mapped(self, digest: str, log: ProblemLog) -> CocoIndex | None:
        if len(digest) != 64 or not digest.isalnum():
            return None
        try:
            index, problems = read_index(self._path(digest), digest=digest)
        except UnusableIndex:
            return None
        log.extend(problems)
        with suppress(OSError):
            os.utime(self._path(digest))
        return index

    def _built(self, content: bytes, mark: str, address: str, log: ProblemLog) -> CocoIndex:
        digest = hashlib.sha256(content).hexdigest()
        index = self._mapped(digest, log)
        if index is None:
            found = ProblemLog()
            index = self._kept(parse_coco(content, found, where=address), found)
            log.extend(found.problems())
        if mark:
            with suppress(OSError):
                write_atomically(self._folder / f"{mark}.digest", digest)
        return index

    def _kept(self, parsed: CocoIndex, found: ProblemLog) -> CocoIndex:
        """Write an index and return it mapped, so that this process, too, uses the pages that all share."""
        path = self._path(parsed.digest)
        try:
            self._sweep(parsed.digest)
            write_index(path, parsed, found.problems())
            return read_index(path, digest=parsed.digest)[0]
        except (OSError, UnusableIndex):
            self._figures.add(cache_failures=1)
            return parsed

    def _sweep(self, digest: str) -> None:
        """Remove what a killed process left of this index, and what nobody has used for long."""
        for path in self._folder.iterdir():
            with suppress(OSError):
                is_leftover = path.name.startswith(f"{digest}.") and path.suffix == ".tmp"
                if is_leftover or time.time() - path.stat().st_mtime > UNUSED_AFTER_S:
                    path.unlink()

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _missing(address: str, reason: str) -> InvalidDataset:
    return InvalidDataset(
        f"{address!r} cannot be read ({reason}); every split needs its annotations as {ANNOTATIONS}, or an address in "
        "data.SPLIT.annotations"
    )
