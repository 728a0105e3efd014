"""What a store can do, found by doing it: every property that checkpoints rest on, and how fast it is.

Everything happens below a prefix of its own, which is deleted at the end, whatever happened. A property that fails ends
only what depends on it, so that one run names all that is wrong.
"""

import base64
import hashlib
import re
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from sam3ft_api.errors import Sam3ftError, StorageDenied, StorageUnavailable
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.objects import AlreadyExists, NotFound, Store
from sam3ft_trainer.store.tls import describe_tls
from sam3ft_trainer.store.uri import Address, open_store, parse_address

LARGE_BYTES = 24 << 20
"""Written in pieces: more than one of those that checkpoints are written in."""
SMALL_BYTES = 4096
RACERS = 16
RACES = 4
LISTED = 20
TIMED = 40
_PATIENCE_RETRIES = 1


class State(StrEnum):
    """How one property stands."""

    YES = "yes"
    NO = "no"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Finding:
    """One property.

    Attributes:
        name: what was tried.
        state: whether the store has it.
        detail: what was seen, or why it failed.
        needed: whether checkpoints rest on it.
    """

    name: str
    state: State
    detail: str
    needed: bool = True


@dataclass(slots=True)
class Survey:
    """All properties of one store, and its speed.

    Attributes:
        address: what was asked.
        endpoint: URL of the service; empty for a folder.
        findings: in the order of the trials.
        speed: milliseconds and MB/s by name.
    """

    address: str
    endpoint: str
    findings: list[Finding] = field(default_factory=list)
    speed: dict[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> list[Finding]:
        """What checkpoints need and the store has not."""
        return [finding for finding in self.findings if finding.needed and finding.state is not State.YES]

    @property
    def reason(self) -> str:
        """Why checkpoints cannot be kept there; empty when they can."""
        failed = [f"{finding.name}: {finding.detail}" for finding in self.missing if finding.state is State.NO]
        return "; ".join(failed)


def survey(address: str, access: Access) -> Survey:
    """Try everything that checkpoints need at an address; leaves nothing behind.

    Raises:
        InvalidConfig: the address or the profile is wrong, or the profile refuses the endpoint.
    """
    profile = access.profile.model_copy(update={"retries": min(access.profile.retries, _PATIENCE_RETRIES)})
    return _Trials(parse_address(address), replace(access, profile=profile)).run()


class _Untried(Exception):
    """What this trial rests on has failed."""


class _Trials:
    def __init__(self, address: Address, access: Access) -> None:
        self._address, self._access = address, access
        self._prefix = f"sam3ft-doctor-{uuid.uuid4().hex[:12]}"
        self._found = Survey(str(address), "")
        self._store: Store | None = None
        self._made: list[Path] = []
        self._early: list[int] = []

    @property
    def store(self) -> Store:
        if self._store is None:
            raise _Untried
        return self._store

    def run(self) -> Survey:
        try:
            for name, trial, needed in (
                ("reach", self._reach, True),
                ("list", self._list, True),
                ("write and read", self._write_and_read, True),
                ("read a range", self._range, True),
                ("overwrite", self._overwrite, True),
                ("second creation refused", self._create_twice, True),
                ("one winner of a race", self._race, True),
                ("list after write", self._list_after_write, True),
                ("large object, in pieces", self._large, True),
                ("nothing of it visible before its end", self._invisible, True),
                ("delete", self._delete, True),
                ("damage on the way is refused", self._wrong_digest, False),
                ("speed", self._time, False),
            ):
                self._try(name, trial, needed=needed)
        finally:
            self._clean()
        return self._found

    def _try(self, name: str, trial: Callable[[], str], *, needed: bool) -> None:
        try:
            state, detail = State.YES, trial()
        except _Untried:
            state, detail = State.UNTRIED, "what it rests on has failed"
        except (_Lacking, StorageDenied, StorageUnavailable, AlreadyExists) as lack:
            state, detail = State.NO, self._shortened(str(lack))
        self._found.findings.append(Finding(name, state, detail, needed=needed))

    def _shortened(self, text: str) -> str:
        """Leave out what every line would say: the address, and keys that exist only now."""
        return re.sub(rf"(, )?object '{self._prefix}[^']*'", "", text).removeprefix(str(self._address)).lstrip(":, ")

    def _needs(self, *names: str) -> None:
        have = {finding.name for finding in self._found.findings if finding.state is State.YES}
        if not have.issuperset(names):
            raise _Untried

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _reach(self) -> str:
        self._made = _missing_folders(self._address)
        opened = open_store(self._address, create=True, access=self._access)
        self._found.endpoint = opened.endpoint
        opened.list_objects(self._prefix)
        self._store = opened
        return describe_tls(opened.endpoint, self._access.profile.ca_file) if opened.endpoint else "a folder"

    def _list(self) -> str:
        found = self.store.list_objects(self._prefix)
        return _expect(not found, "an unused prefix is empty", f"an unused prefix lists {len(found)} objects")

    def _write_and_read(self) -> str:
        key = self._key("small")
        self.store.put(key, b"first")
        same = self.store.get(key) == b"first" and self.store.head(key).size == len(b"first")
        return _expect(same, "what was written comes back", "other bytes came back")

    def _range(self) -> str:
        self._needs("write and read")
        part = bytes(self.store.get_range(self._key("small"), 1, 3))
        behind = bytes(self.store.get_range(self._key("small"), 3, 10))
        right = (part, behind) == (b"irs", b"st")
        return _expect(right, "exactly the bytes asked for", f"{len(part)} bytes came for 3, {len(behind)} for 2")

    def _overwrite(self) -> str:
        self._needs("write and read")
        self.store.put(self._key("small"), b"second")
        new = self.store.get(self._key("small")) == b"second"
        return _expect(new, "the new bytes come back at once", "the old bytes come back after a write")

    def _create_twice(self) -> str:
        self._needs("write and read")
        self.store.put_if_absent(self._key("once"), b"first")
        try:
            self.store.put_if_absent(self._key("once"), b"second")
        except AlreadyExists:
            kept = self.store.get(self._key("once")) == b"first"
            return _expect(kept, "two runs cannot write one log", "it is refused, and yet the bytes have changed")
        raise _Lacking("a second creation succeeds: two incarnations of a run could both write; see allowUnfenced")

    def _race(self) -> str:
        self._needs("second creation refused")
        with ThreadPoolExecutor(RACERS) as pool:
            winners = [self._winners_of(self._key(f"race/{race}"), pool) for race in range(RACES)]
        one = all(number == 1 for number in winners)
        seen = f"{RACES} races of {RACERS}"
        return _expect(one, seen, f"{seen} had {', '.join(map(str, winners))} winners")

    def _winners_of(self, key: str, pool: ThreadPoolExecutor) -> int:
        start, store = threading.Barrier(RACERS), self.store

        def create(number: int) -> bool:
            start.wait(30)
            try:
                store.put_if_absent(key, str(number).encode())
            except AlreadyExists:
                return False
            return True

        return sum(pool.map(create, range(RACERS)))

    def _list_after_write(self) -> str:
        self._needs("write and read")
        keys = [self._key(f"many/{number:03d}") for number in range(LISTED)]
        for key in keys:
            self.store.put(key, b"x")
        listed = [info.key for info in self.store.list_objects(self._key("many"))]
        self.store.delete(keys)
        left = len(self.store.list_objects(self._key("many")))
        seen = f"{len(set(keys) & set(listed))} of {LISTED} listed after the write, {left} after their deletion"
        return _expect(listed == keys and not left, seen, seen)

    def _large(self) -> str:
        self._needs("write and read")
        data, key = _bytes(LARGE_BYTES), self._key("large")
        done = threading.Event()
        with ThreadPoolExecutor(1) as watcher:
            watching = watcher.submit(self._watch, key, done)
            started = time.monotonic()
            try:
                self.store.put(key, data)
            finally:
                wrote_s = time.monotonic() - started
                done.set()
            watching.result()
        started = time.monotonic()
        whole = self.store.get(key) == data
        read_s = time.monotonic() - started
        self._found.speed |= {"write_mb_s": LARGE_BYTES / 1e6 / wrote_s, "read_mb_s": LARGE_BYTES / 1e6 / read_s}
        return _expect(whole, f"{LARGE_BYTES >> 20} MiB come back whole", "other bytes came back")

    def _watch(self, key: str, done: threading.Event) -> None:
        """Note every size other than the final one under which the object can be seen while it is written."""
        while not done.wait(0.005):
            try:
                size = self.store.head(key).size
            except NotFound:
                continue
            except Sam3ftError:
                return
            if size != LARGE_BYTES:
                self._early.append(size)

    def _invisible(self) -> str:
        self._needs("large object, in pieces")
        seen = f"it was seen with {self._early[0]:,} bytes" if self._early else ""
        return _expect(not self._early, "it appears whole", seen)

    def _delete(self) -> str:
        self._needs("write and read")
        key = self._key("small")
        self.store.delete([key, key])
        try:
            self.store.get(key)
        except NotFound:
            return "gone at once; deleting again is no error"
        raise _Lacking("the object can still be read")

    def _wrong_digest(self) -> str:
        self._needs("write and read")
        if not self.store.endpoint:
            raise _Lacking("a folder checks nothing; sam3ft's own hashes do, at every restore")
        digest = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
        access = replace(self._access, headers={"content-md5": digest})
        try:
            open_store(self._address, access=access).put(self._key("damaged"), b"these")
        except (StorageDenied, StorageUnavailable):
            return "a wrong Content-MD5 is refused"
        raise _Lacking("a wrong Content-MD5 is accepted; sam3ft's own hashes notice damage, at every restore")

    def _time(self) -> str:
        self._needs("write and read")
        data, key = _bytes(SMALL_BYTES), self._key("timed")
        writes = [_timed_ms(lambda: self.store.put(key, data)) for _ in range(TIMED)]
        reads = [_timed_ms(lambda: self.store.get(key)) for _ in range(TIMED)]
        for name, times in (("write", writes), ("read", reads)):
            self._found.speed |= {f"{name}_p50_ms": _quantile(times, 0.5), f"{name}_p99_ms": _quantile(times, 0.99)}
            self._found.speed[f"small_{name}s_per_s"] = 1000 * len(times) / sum(times)
        return f"measured with {TIMED} objects of {SMALL_BYTES >> 10} KiB"

    def _clean(self) -> None:
        self._remove_objects()
        for folder in self._made:
            with suppress(OSError):  # somebody uses it by now
                folder.rmdir()

    def _remove_objects(self) -> None:
        if self._store is None:
            return
        try:
            self._store.delete_prefix(self._prefix)
            left = len(self._store.list_objects(self._prefix))
        except Sam3ftError as error:
            self._found.findings.append(Finding("nothing left behind", State.NO, str(error)))
            return
        if left:
            lines = f"{left} objects below {self._prefix}/ could not be deleted; delete them"
            self._found.findings.append(Finding("nothing left behind", State.NO, lines))


class _Lacking(Exception):
    """The store has not what was tried; the text says what was seen instead."""


def _missing_folders(address: Address) -> list[Path]:
    """Folders that opening the address will make, the innermost first."""
    if address.scheme != "file":
        return []
    return [folder for folder in (Path(address.path), *Path(address.path).parents) if not folder.exists()]


def _expect(holds: bool, detail: str, lack: str) -> str:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise _Lacking(lack)
    return detail


def _bytes(size: int) -> bytes:
    """Bytes without a period, so that a piece in the wrong place is another content."""
    return b"".join(hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(size // 32))


def _timed_ms(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return 1000 * (time.monotonic() - started)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
