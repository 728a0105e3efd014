"""Choosing the commit to resume from, all ranks together, and saying in one sentence what was resumed."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sam3ft_api.errors import CheckpointIncompatible, Sam3ftError
from sam3ft_trainer.store.exchange import Exchange
from sam3ft_trainer.store.history import DamagedHistory
from sam3ft_trainer.store.layout import MAX_FILE_BYTES, check_same_tensors
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.messages import error_named, name_of
from sam3ft_trainer.store.nodecopy import NodeCopy
from sam3ft_trainer.store.records import CommitEntry, CommitMeta, Record, RetireEntry, RunFacts
from sam3ft_trainer.store.restore import Damaged, Reader, load_commit, load_files
from sam3ft_trainer.store.saves import Place
from sam3ft_trainer.store.sharing import Broadcast, Sharing, share_commit, spread


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has loaded.

    Attributes:
        seq: log entry of the commit.
        step: finished optimizer steps.
        meta: the part of the state that is not tensors.
        world_size_then: processes that wrote it.
        dataset_changed: the annotations differ from those it was trained on (only with `on_change: restartEpoch`).
        message: one sentence for people: what was resumed, and what was found damaged on the way.
        fell_back: one line for each newer commit that was damaged and is retired now.
    """

    seq: int
    step: int
    meta: CommitMeta
    world_size_then: int
    dataset_changed: bool
    message: str
    fell_back: tuple[str, ...] = ()


class _Offer(Record):
    """Rank 0's proposal: a commit to load, or the end."""

    commit: CommitEntry | None = None
    fell_back: tuple[str, ...] = ()
    error: str = ""
    message: str = ""


class _Verdict(Record):
    """A rank's answer to an offer, and rank 0's summary of all answers.

    Attributes:
        state: of the files that the rank has read.
        sharing: digest of what the rank would hand over in which order; empty when it has read everything.
        error: class of the failure.
        message: for people.
    """

    state: Literal["ok", "damaged", "failed"]
    sharing: str = ""
    error: str = ""
    message: str = ""


class Resumer:
    """Restores the newest commit that verifies on every rank."""

    def __init__(
        self,
        log: CommitLog,
        exchange: Exchange,
        place: Place,
        facts: RunFacts,
        *,
        copy: NodeCopy | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Stand ready; see `open_run_store`."""
        self._max_file_bytes = max_file_bytes
        self._log, self._exchange, self.place, self._facts, self._clock = log, exchange, place, facts, clock
        self._reader = Reader(log.store, place.outage_s, copy)

    def restore(self, targets: Mapping[str, Tensor], broadcast: Broadcast | None = None) -> Restored | None:
        """Do what `RunStore.restore` says."""
        offer, damage = _Offer(), ""
        for turn in itertools.count():
            offer = self._offer(turn, offer, damage)
            if offer.error:
                raise error_named(offer.error, offer.message)
            if offer.commit is None:
                return None
            sharing = self._sharing(offer.commit, targets, broadcast)
            verdict = self._vote(turn, self._try(offer.commit, targets, sharing))
            if verdict.state == "ok":
                if sharing is not None and broadcast is not None:
                    spread(sharing, targets, broadcast, rank=self.place.rank)
                return self._restored(offer.commit, offer.fell_back)
            if verdict.state == "failed":
                raise error_named(verdict.error, verdict.message)
            damage = verdict.message
        raise AssertionError("unreachable: every turn retires a commit")

    def _offer(self, turn: int, previous: _Offer, damage: str) -> _Offer:
        """Return rank 0's proposal of this turn; `damage` is what was wrong with the previous one."""
        key = self._key(turn, "offer")
        if self.place.rank:
            return _Offer.model_validate_json(self._exchange.get(key, timeout_s=self.place.peer_timeout_s))
        try:
            offer = self._next_offer(previous, damage)
        except Sam3ftError as error:
            self._put(key, _Offer(error=name_of(error), message=str(error)))
            raise
        self._put(key, offer)
        return offer

    def _next_offer(self, previous: _Offer, damage: str) -> _Offer:
        """Find the newest commit whose files are all there; retire those on the way that are not."""
        fell_back = previous.fell_back
        if previous.commit is not None:
            fell_back = self._retired(previous.commit, damage, fell_back)
        for commit in self._log.history.usable_commits():
            self._check_dataset(commit)
            try:
                self._reader.check_sizes(commit.files)
            except Damaged as found:
                fell_back = self._retired(commit, str(found), fell_back)
            else:
                return _Offer(commit=commit, fell_back=fell_back)
        if self._log.history.had_commits():
            raise DamagedHistory(
                f"{self._log.store.address}: every commit is damaged ({'; '.join(fell_back)}). This is not a fresh "
                "start: restore the files from a copy, use another checkpoint prefix, or checkpoint.resume: never"
            )
        return _Offer()

    def _check_dataset(self, commit: CommitEntry) -> None:
        if commit.dataset_digest != self._facts.dataset_digest and self._facts.on_dataset_change == "refuse":
            raise CheckpointIncompatible(
                f"{self._log.store.address}: step {commit.meta.step} was trained on annotations with digest "
                f"{commit.dataset_digest[:16]!r}, they now have {self._facts.dataset_digest[:16]!r}. Put the old ones "
                "back, or set data.on_change: restartEpoch to go on with the new ones from the start of the epoch"
            )

    def _sharing(
        self, commit: CommitEntry, targets: Mapping[str, Tensor], broadcast: Broadcast | None
    ) -> Sharing | None:
        if broadcast is None or self.place.world_size == 1:
            return None
        return share_commit(commit, targets, world_size=self.place.world_size, max_file_bytes=self._max_file_bytes)

    def _try(self, commit: CommitEntry, targets: Mapping[str, Tensor], sharing: Sharing | None) -> _Verdict:
        where = f"{self._log.store.address}, step {commit.meta.step}"
        try:
            if sharing is None:
                load_commit(self._reader, commit, targets)
            else:
                mine = [file for file in commit.files if sharing.reads(file, self.place.rank)]
                found = load_files(self._reader, mine, targets)
                check_same_tensors(found, sharing.part_of(self.place.rank), where=where)
        except Damaged as damage:
            return _Verdict(state="damaged", message=str(damage))
        except Sam3ftError as error:
            return _Verdict(state="failed", error=name_of(error), message=str(error))
        return _Verdict(state="ok", sharing="" if sharing is None else sharing.digest)

    def _vote(self, turn: int, mine: _Verdict) -> _Verdict:
        """Return the worst answer of all ranks, the same on all."""
        key, timeout_s = self._key(turn, "vote"), self.place.peer_timeout_s
        if self.place.rank:
            self._put(f"{key}{self.place.rank}", mine)
            return _Verdict.model_validate_json(self._exchange.get(f"{key}-result", timeout_s=timeout_s))
        votes = [mine] + [
            _Verdict.model_validate_json(self._exchange.get(f"{key}{rank}", timeout_s=timeout_s))
            for rank in range(1, self.place.world_size)
        ]
        worst = max(votes, key=lambda vote: ("ok", "damaged", "failed").index(vote.state))
        if worst.state == "ok" and len({vote.sharing for vote in votes}) > 1:
            worst = _Verdict(state="failed", error="RuntimeError", message="the ranks hold tensors of different shapes")
        self._put(f"{key}-result", worst)
        return worst

    def _retired(self, commit: CommitEntry, detail: str, fell_back: tuple[str, ...]) -> tuple[str, ...]:
        self._log.append(lambda head: RetireEntry(**head, seqs=(commit.seq,), reason="damaged", detail=detail))
        return (*fell_back, f"step {commit.meta.step} is damaged: {detail}")

    def _restored(self, commit: CommitEntry, fell_back: Sequence[str]) -> Restored:
        changed = commit.dataset_digest != self._facts.dataset_digest
        return Restored(
            seq=commit.seq,
            step=commit.meta.step,
            meta=commit.meta,
            world_size_then=commit.world_size,
            dataset_changed=changed,
            message=resume_message(
                commit,
                address=self._log.store.address,
                world_size=self.place.world_size,
                age_s=self._clock() - commit.time_unix_s,
                fell_back=fell_back,
                dataset_changed=changed,
            ),
            fell_back=tuple(fell_back),
        )

    def _put(self, key: str, value: Record) -> None:
        self._exchange.put(key, value.model_dump_json().encode())

    def _key(self, turn: int, what: str) -> str:
        return f"{self.place.nonce}/restore{turn}/{what}"


def resume_message(
    commit: CommitEntry,
    *,
    address: str,
    world_size: int,
    age_s: float,
    fell_back: Sequence[str] = (),
    dataset_changed: bool = False,
) -> str:
    """Return the sentence that says what was resumed."""
    then = f"{commit.world_size} process" + ("es" if commit.world_size != 1 else "")
    resumed = (
        f"resumed from {address}, log entry {commit.seq}: step {commit.meta.step}, epoch {commit.meta.epoch:.2f}, "
        f"saved {max(0.0, age_s):.0f} s ago by {then}, now {world_size}"
    )
    parts = [resumed, *(f"{line}; its steps are computed again" for line in fell_back)]
    if dataset_changed:
        parts.append("the annotations have changed since; the epoch starts again")
    return ". ".join(parts)
