"""The files of one split in an object store: read in place, through the node's cache, patient in outages."""

import time
from collections.abc import Callable
from typing import TypeVar

from sam3ft_api.errors import StorageUnavailable
from sam3ft_trainer.data.figures import Figures
from sam3ft_trainer.data.imagecache import ImageCache, entry_name
from sam3ft_trainer.data.source import KeyMissing, clean_key
from sam3ft_trainer.store.objects import NotFound, ObjectInfo, Store, with_patience

FETCH_THREADS = 16
"""Threads of a process that wait for the store. At 100 ms a request they bring 160 images a second, more than the cores
of a process decode."""
PART_BYTES = 8 << 20
"""Size of the parts of a large object; at 20 s a request it needs a line of 0.4 MiB/s."""
Sleep = Callable[[float], None]
Result = TypeVar("Result")


class ObjectSource:
    """Read-only access to the objects below one address; an `ImageSource`, safe to call from many threads.

    What is there is listed once, and this listing decides which keys exist and how large they are. While the store does
    not answer, every method repeats its request for `outage_s` seconds. A refusal of the first requests is the user's
    to mend; later ones are an outage, because credentials that were good are being renewed.
    """

    def __init__(
        self, store: Store, *, identity: str, figures: Figures, outage_s: float, cache: ImageCache | None = None
    ) -> None:
        """Read below the root of `store`.

        Args:
            store: opened at the address.
            identity: what tells this place from any other: endpoint or profile, and address.
            figures: told what reading costs.
            outage_s: seconds for which the store may not answer.
            cache: of the node; None reads from the store each time.
        """
        self._store, self._identity, self._figures = store, identity, figures
        self._outage_s, self._cache = outage_s, cache
        self._listed: dict[str, ObjectInfo] | None = None
        self._has_answered = False

    @property
    def address(self) -> str:
        """Where the objects are."""
        return self._store.address

    def get(self, key: str) -> bytes:
        """Return the content of an object; see `ImageSource.get`."""
        return self.fetch(key)

    def fetch(self, key: str, *, sleep: Sleep = time.sleep) -> bytes:
        """Return the content of an object.

        Args:
            key: as in the listing.
            sleep: how to wait between two attempts; what it raises ends the call.

        Raises:
            KeyMissing: the object is not in the listing, or was deleted since.
            KeyLeavesRoot: the key points outside the address.
            StorageDenied: access was refused from the start.
            StorageUnavailable: no answer for the whole budget.
        """
        info = self._info(key)
        if info.size == 0:
            return b""
        cached = None if self._cache is None else self._cache.get(self.entry(info))
        return self._from_store(info, sleep) if cached is None else cached

    def check(self, key: str) -> int:
        """Return the size of an object in bytes; see `ImageSource.check`."""
        return self._info(key).size

    def etag(self, key: str) -> str:
        """Return the store's mark of an object's content as it was listed; raises as `check` does."""
        return self._info(key).etag

    def files(self) -> dict[str, int]:
        """Return the size of every object below the address, by key; one listing for the life of the source."""
        return {key: info.size for key, info in self._listing().items()}

    def read(self, key: str) -> tuple[bytes, ObjectInfo]:
        """Return an object that need not be listed, past the cache, with what the store says about it.

        A large one comes in parts, each within the time of a request however slow the line is; it is read again when it
        was replaced meanwhile.

        Raises:
            NotFound: there is no such object. StorageDenied, StorageUnavailable: as `fetch`.
        """
        while True:
            info = self.describe(key)
            content = b"".join(self._part(key, start) for start in range(0, info.size, PART_BYTES))
            if len(content) == info.size and _is_same(info, self.describe(key)):
                return content, info

    def describe(self, key: str) -> ObjectInfo:
        """Return what the store says about an object now; raises as `read` does."""
        return self._patiently(lambda: self._store.head(key), time.sleep)

    def entry(self, info: ObjectInfo) -> str:
        """Return the name under which the node keeps this content of an object."""
        version = info.etag or f"{info.size} bytes of {info.modified_unix_s}"
        return entry_name(self._identity, info.key, version)

    def _part(self, key: str, start: int) -> memoryview:
        return self._patiently(lambda: self._store.get_range(key, start, PART_BYTES), time.sleep)

    def _listing(self) -> dict[str, ObjectInfo]:
        if self._listed is None:
            infos = self._patiently(lambda: self._store.list_objects(""), time.sleep)
            self._listed = {info.key: info for info in infos}
            if self._cache is not None:
                self._cache.want(self.entry(info) for info in infos)
        return self._listed

    def _info(self, key: str) -> ObjectInfo:
        info = self._listing().get(clean_key(key))
        if info is None:
            raise KeyMissing(f"object {key!r} does not exist in {self.address!r}")
        return info

    def _from_store(self, info: ObjectInfo, sleep: Sleep) -> bytes:
        started = time.monotonic()
        try:
            content, seen = self._patiently(lambda: self._whole(info), sleep)
        except NotFound as error:
            raise KeyMissing(
                f"object {info.key!r} of {self.address!r} was there when the data set was listed, and is gone: the "
                "data set changed under the run. Put it back and run again, or start a new run without it"
            ) from error
        self._figures.fetched(len(content), time.monotonic() - started)
        if not _is_same(info, seen):
            # Replaced since it was listed: from here on this content is the known one, also for the cache.
            self._figures.add(changed=1)
            self._listing()[info.key] = info = seen
        if self._cache is not None:
            self._cache.put(self.entry(info), content)
        return content

    def _whole(self, info: ObjectInfo) -> tuple[bytes, ObjectInfo]:
        content, seen = self._store.get_with_info(info.key)
        if seen.size != info.size and _is_same(info, seen):
            raise StorageUnavailable(
                f"{self.address}, object {info.key!r}: {seen.size:,} bytes came, {info.size:,} are listed"
            )
        return content, seen

    def _patiently(self, call: Callable[[], Result], sleep: Sleep) -> Result:
        def wait(seconds: float) -> None:
            self._figures.add(retries=1)
            sleep(seconds)

        result = with_patience(call, outage_s=self._outage_s, denied_is_outage=self._has_answered, sleep=wait)
        self._has_answered = True
        return result


def _is_same(listed: ObjectInfo, seen: ObjectInfo) -> bool:
    """Say whether two answers speak of the same content; a store that gives no etag is taken at its word."""
    return not listed.etag or not seen.etag or _bare(listed.etag) == _bare(seen.etag)


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
