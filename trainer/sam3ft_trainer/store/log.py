"""The append-only commit log: who owns the run, which commits exist, and the fence between incarnations.

Every entry is one small object `log/00000042.json` that is created only if its key is free. Whoever creates number
n+1 has thereby read number n, so a process whose run was claimed by another one can never append again: its next
create fails, it reads the newer claim and stops. There is no pointer to move and nothing is ever overwritten.
"""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sam3ft_api.errors import CheckpointIncompatible, Fenced, StorageUnavailable
from sam3ft_trainer.store.history import DamagedHistory, History, entry_key
from sam3ft_trainer.store.objects import AlreadyExists, NotFound, Store, with_patience
from sam3ft_trainer.store.records import ClaimEntry, Entry, Owner, RunFacts, differing_settings

E = TypeVar("E", bound=Entry)
CHECKPOINTS = "ckpt"
"""Prefix of all checkpoint files: `ckpt/g0007-s00001200-1a2b3c4d-3/...`."""
_READERS = 16
_MAX_RACES = 100


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a starting group says about itself.

    Attributes:
        owner: who runs.
        facts: what it computes.
        resume: auto, never or must, as in `CheckpointConfig`.
        adopt: take the prefix over whoever owns it and whatever it computed.
        world_size: processes of the group.
    """

    owner: Owner
    facts: RunFacts
    resume: Literal["auto", "never", "must"]
    adopt: bool
    world_size: int


class CommitLog:
    """The log under one run address. Thread-safe."""

    def __init__(self, store: Store, *, outage_s: float = 900.0, clock: Callable[[], float] = time.time) -> None:
        """Attach to the log; reads nothing yet.

        Args:
            store: rooted at the run's address.
            outage_s: how long an unanswered request is repeated before `StorageUnavailable`, s.
            clock: seconds since the epoch, for the time stamps.
        """
        self.store = store
        self._outage_s = outage_s
        self._clock = clock
        self._lock = threading.Lock()
        self._history = History()
        self._claim: ClaimEntry | None = None

    @property
    def history(self) -> History:
        """The entries as last read or written."""
        return self._history

    def read(self) -> History:
        """Read the entries that were added since the last call and return all.

        Raises:
            DamagedHistory: entries are missing or changed, or checkpoint files exist that no entry can account for.
            StorageUnavailable: no answer for the whole budget.
        """
        with self._lock:
            return self._read()

    def claim(self, request: ClaimRequest) -> ClaimEntry:
        """Take the run over as a new generation; every older one is fenced once this returns.

        Of two groups that start at once the later claim wins.

        Raises:
            CheckpointIncompatible: the prefix belongs to another owner or computes something else and `adopt` is
                off; or `resume: must` and there is no commit.
            DamagedHistory: as `read`.
        """
        with self._lock:
            for _ in range(_MAX_RACES):
                written = with_patience(lambda: self.store.list_prefixes(CHECKPOINTS), outage_s=self._outage_s)
                history = self._read()  # after the listing: whoever wrote those files had claimed before
                _check_accounts(history, [info.prefix for info in written], address=self.store.address)
                check_claim(history, request, address=self.store.address)
                entry = self._claim_entry(history, request)
                if self._created(entry):
                    self._claim = entry
                    return entry
        raise StorageUnavailable(
            f"{self.store.address}: {_MAX_RACES} other claims came first; is something restarting in a loop?"
        )

    def append(self, build: Callable[[dict[str, Any]], E]) -> E:
        """Add one entry of this generation.

        Args:
            build: makes the entry around its head: seq, prev_sha256, gen, nonce, time_unix_s; called again if the
                entry must move on.

        Raises:
            Fenced: a newer generation has claimed the run. Nothing was written.
            StorageUnavailable: no answer for the whole budget; the entry may have been written.
        """
        with self._lock:
            if self._claim is None:
                raise RuntimeError("claim() comes before append()")
            nonce = uuid.uuid4().hex
            for _ in range(_MAX_RACES):
                self._raise_if_fenced(self._history)  # before the number is chosen: reading may have passed the fence
                entry = build(self._head(self._claim.gen, nonce))
                if self._created(entry):
                    return entry
                self._read()
        raise StorageUnavailable(f"{self.store.address}: the log grows faster than it can be appended to")

    def _raise_if_fenced(self, history: History) -> None:
        newest = history.claims[-1]
        if self._claim is not None and newest.gen > self._claim.gen:
            raise Fenced(
                f"{self.store.address}: generation {newest.gen} of {newest.owner} claimed the run at log entry "
                f"{newest.seq}; this is generation {self._claim.gen} of {self._claim.owner}, which stops here and "
                "deletes nothing"
            )

    def _claim_entry(self, history: History, request: ClaimRequest) -> ClaimEntry:
        same_start = _started_over_in(history, request.facts.invocation)
        return ClaimEntry(
            **self._head(history.generation + 1, uuid.uuid4().hex),
            owner=request.owner,
            facts=request.facts,
            fresh=request.resume == "never" and not same_start,
            adopted=request.adopt,
            world_size=request.world_size,
        )

    def _head(self, generation: int, nonce: str) -> dict[str, Any]:
        history = self._history
        return {
            "seq": history.head_seq + 1,
            "prev_sha256": history.head_sha256,
            "gen": generation,
            "nonce": nonce,
            "time_unix_s": self._clock(),
        }

    def _created(self, entry: Entry) -> bool:
        """Create the entry's object; False if another entry has its number. A lost response is resolved by nonce."""
        data = entry.model_dump_json(indent=1).encode()
        if not with_patience(lambda: self._try_create(entry, data), outage_s=self._outage_s):
            return False
        self._history = self._history.extended([data], address=self.store.address)
        return True

    def _try_create(self, entry: Entry, data: bytes) -> bool:
        key = entry_key(entry.seq)
        try:
            self.store.put_if_absent(key, data)
        except AlreadyExists:
            return self.store.get(key) == data
        except StorageUnavailable:
            if self._stored(key) == data:
                return True
            raise
        return True

    def _stored(self, key: str) -> bytes | None:
        try:
            return self.store.get(key)
        except NotFound:
            return None

    def _read(self) -> History:
        known = self._history.head_seq
        infos = with_patience(lambda: self.store.list_objects("log"), outage_s=self._outage_s)
        numbers = sorted(_number(info.key, address=self.store.address) for info in infos)
        if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < known:
            missing = next(n for n in range(1, max([known, *numbers]) + 1) if n not in numbers)
            raise DamagedHistory(
                f"{self.store.address}: log entry {entry_key(missing)} is missing although later ones exist. "
                "Restore it from a copy, or use another checkpoint prefix"
            )
        with ThreadPoolExecutor(_READERS) as readers:
            stored = list(readers.map(self._fetch, numbers[known:]))
        self._history = self._history.extended(stored, address=self.store.address)
        return self._history

    def _fetch(self, seq: int) -> bytes:
        return with_patience(lambda: self.store.get(entry_key(seq)), outage_s=self._outage_s)


def check_claim(history: History, request: ClaimRequest, *, address: str) -> None:
    """Decide whether the group may claim.

    Raises:
        CheckpointIncompatible: another owner, task, settings or initial weights without `adopt`; no commit for `must`.
        DamagedHistory: there were commits, and none of them is usable any more.
    """
    if history.claims and not request.adopt:
        _check_identity(history.claims[-1], request, address=address)
    starts_over = request.resume == "never" and not _started_over_in(history, request.facts.invocation)
    if starts_over or history.usable_commits():
        return
    if history.had_commits():
        raise DamagedHistory(
            f"{address}: all {len(history.commits)} commits are damaged or retired. This is not a fresh start: "
            "use another checkpoint prefix, or checkpoint.resume: never to begin again at step 0"
        )
    if request.resume == "must":
        raise CheckpointIncompatible(
            f"{address}: checkpoint.resume is 'must' and there is no commit; check the address, or allow 'auto'"
        )


def generation_of(prefix: str) -> int | None:
    """Return the generation in the name of a checkpoint prefix, None for a foreign name."""
    name = prefix.rpartition("/")[2]
    digits = name[1:].partition("-")[0]
    return int(digits) if name.startswith("g") and digits.isdigit() else None


def _check_identity(newest: ClaimEntry, request: ClaimRequest, *, address: str) -> None:
    advice = "use another checkpoint prefix, or checkpoint.adopt: true to take this one over"
    if newest.owner != request.owner:
        raise CheckpointIncompatible(f"{address} belongs to {newest.owner}, and this is {request.owner}; {advice}")
    for what in ("task", "numbers_digest", "model_digest"):
        there, here = getattr(newest.facts, what), getattr(request.facts, what)
        if there == here:
            continue
        name = {"task": "the task", "numbers_digest": "settings", "model_digest": "initial weights"}[what]
        differing = differing_settings(newest.facts.settings, request.facts.settings) if "numbers" in what else []
        detail = f" ({'; '.join(differing)})" if differing else ""
        raise CheckpointIncompatible(
            f"{address} of {newest.owner} was made with {name} {there[:16]!r}, and {request.owner} has {here[:16]!r}"
            f"{detail}; {advice}"
        )


def _check_accounts(history: History, prefixes: list[str], *, address: str) -> None:
    """Refuse a log that has lost its end: checkpoint files of a generation that it does not know."""
    for prefix in prefixes:
        generation = generation_of(prefix)
        if generation is not None and generation > history.generation:
            raise DamagedHistory(
                f"{address}: {prefix} was written by generation {generation}, and the log knows {history.generation} "
                "generations: log entries have vanished. This is not a fresh start; restore the log from a copy, or "
                "use another checkpoint prefix"
            )


def _started_over_in(history: History, invocation: str) -> bool:
    fresh = [claim for claim in history.claims if claim.fresh]
    return bool(fresh) and fresh[-1].facts.invocation == invocation != ""


def _number(key: str, *, address: str) -> int:
    name = key.rpartition("/")[2]
    digits = name.removesuffix(".json")
    if not (name.endswith(".json") and len(digits) == 8 and digits.isdigit()):
        raise DamagedHistory(f"{address}: {key} does not belong into a commit log; remove it, or use another prefix")
    return int(digits)
