"""The background half of a save: upload this rank's files, gather receipts, commit, clean up.

One thread per save and rank. Ranks talk through the `Exchange`, never by collectives. Rank 0 alone touches the log:

    every rank   hash and upload its files -> receipt
    rank 0       all receipts -> ask the store for every file -> create the commit entry -> outcome
    every rank   learns the outcome; rank 0 then retires and deletes what need not be kept

A rank that was busy, a peer that is silent or an upload that failed leaves no commit: what was uploaded is invisible.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from sam3ft_api.errors import Fenced, PeerLost, Sam3ftError, StorageDenied, StorageUnavailable
from sam3ft_trainer.store.exchange import Exchange
from sam3ft_trainer.store.history import DamagedHistory
from sam3ft_trainer.store.keeper import Keeper
from sam3ft_trainer.store.layout import digest_of, model_index
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.messages import Outcome, Receipt, error_named, name_of
from sam3ft_trainer.store.nodecopy import NodeCopy
from sam3ft_trainer.store.objects import NotFound, with_patience
from sam3ft_trainer.store.records import CommitEntry, CommitMeta, FileRecord
from sam3ft_trainer.store.saves import Counters, EventBox, Job, Place, SaveTicket
from sam3ft_trainer.store.slab import Slab, content_hash
from sam3ft_trainer.store.speed import SaveSpeed

T = TypeVar("T")
INDEX_NAME = "model.safetensors.index.json"
"""File beside the shards by which Hugging Face loaders read the model's files as one."""


class Saver:
    """Runs saves one at a time, each in a thread of its own."""

    def __init__(
        self,
        log: CommitLog,
        exchange: Exchange,
        place: Place,
        events: EventBox,
        *,
        keeper: Keeper | None,
        copy: NodeCopy | None,
    ) -> None:
        """Stand ready.

        Args:
            log: with this incarnation's claim on rank 0; its store takes the files of all ranks.
            exchange: to the other ranks.
            place: rank, generation and limits.
            events: where to tell.
            keeper: deletes what need not be kept; on rank 0.
            copy: keeps this rank's share of the newest commit on the node.
        """
        self._store, self._log, self._exchange, self._place = log.store, log, exchange, place
        self._events, self._keeper, self._copy = events, keeper, copy
        self.slab = Slab()
        self.counters = Counters()
        self.speed = SaveSpeed()
        self.newest_step: int | None = None
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._last: SaveTicket | None = None

    @property
    def busy(self) -> bool:
        """Whether a save of this rank is under way; its clean-up after the outcome does not count."""
        return self._last is not None and not self._last.done

    @property
    def last(self) -> SaveTicket | None:
        """The newest save that was begun."""
        return self._last

    def stage(self, job: Job, tensors: Mapping[str, Tensor]) -> None:
        """Copy this rank's share into the slab; not while busy. A copy for the node that reads the slab is given up."""
        if self._copy is not None:
            self._copy.supersede(job.number - 1)
        started = time.monotonic()
        self.slab.stage(job.share_of(self._place.rank), tensors)
        stage_s = time.monotonic() - started
        self.counters.staged_s += stage_s
        self.speed.begin(stage_s=stage_s)

    def skip(self, number: int, meta: CommitMeta) -> SaveTicket:
        """Decline a save because the one before is under way; the other ranks will not commit it either."""
        self.counters.skipped += 1
        outcome = Outcome(state="skipped", message="the save before is still under way")
        receipt = Receipt(state="skipped").model_dump_json().encode()
        if self._place.rank:
            self._exchange.put(self._key(number, f"receipt{self._place.rank}"), receipt)
        elif self._place.world_size > 1:
            self._exchange.put(self._key(number, "outcome"), outcome.model_dump_json().encode())
        self._events.tell("save_skipped", step=meta.step)
        ticket = SaveTicket(meta)
        ticket.end(outcome)
        return ticket

    def begin(self, job: Job) -> SaveTicket:
        """Start the upload of what lies in the slab; not while busy."""
        ticket = SaveTicket(job.meta)
        thread = threading.Thread(
            target=self._run, args=(job, ticket, self._thread), name=f"save-{job.meta.step}", daemon=True
        )
        self._last, self._thread = ticket, thread
        thread.start()
        return ticket

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the save under way and all clean-up."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def raise_error(self) -> None:
        """Raise the error that the background met, now and at every later call; nothing is committed after it."""
        if self._error is not None:
            raise self._error

    def patiently(self, call: Callable[[], T]) -> T:
        """Repeat `call` through outages; once something was committed, refused access counts as one."""
        return with_patience(call, outage_s=self._place.outage_s, denied_is_outage=self.newest_step is not None)

    def _run(self, job: Job, ticket: SaveTicket, previous: threading.Thread | None) -> None:
        share = {f"{job.prefix}/{plan.name}": self.slab.view(plan.name) for plan in job.share_of(self._place.rank)}
        try:
            outcome = self._save(job)
            ticket.end(outcome)  # from here on the slab may be wanted for the next save
            if previous is not None:
                previous.join()  # one clean-up at a time; joining the newest thread joins all
            if outcome.state in {"skipped", "aborted"}:
                self._discard(job)
            elif outcome.state == "committed":
                self._afterwards(job, share)
        except BaseException as error:  # noqa: BLE001 - edge of the thread: handed to the main thread by poll()
            self._fail(error)
            ticket.end(ticket.outcome or Outcome(state="failed", error=name_of(error), message=str(error)))

    def _afterwards(self, job: Job, share: Mapping[str, memoryview]) -> None:
        """Clean up and copy, now that the commit is durable."""
        if self._keeper is not None:
            self._keep(self._keeper)
        if self._copy is not None:
            self._copy.write(job.number, share, step=job.meta.step)

    def _save(self, job: Job) -> Outcome:
        started = time.monotonic()
        receipt = self._receipt(job)
        uploaded = time.monotonic()
        outcome = self._settle(job, receipt)
        ended = time.monotonic()
        self.speed.ended(settle_s=ended - uploaded, is_committed=outcome.state == "committed")
        self._account(job, outcome, seconds=ended - started)
        return outcome

    def _receipt(self, job: Job) -> Receipt:
        try:
            return Receipt(state="ok", files=tuple(self._upload(job)), plan_digest=digest_of(job.plans))
        except Exception as error:  # noqa: BLE001 - edge of the thread: the other ranks must hear of any failure
            self._fail(error)
            return Receipt(state="failed", error=name_of(error), message=f"rank {self._place.rank}: {error}")

    def _upload(self, job: Job) -> list[FileRecord]:
        started = time.monotonic()
        records = [
            self._write(job, plan.name, self.slab.view(plan.name), plan.group)
            for plan in job.share_of(self._place.rank)
        ]
        num_bytes = sum(record.size for record in records)
        self.counters.uploaded_bytes += num_bytes
        self.speed.uploaded(num_bytes, time.monotonic() - started)
        if self._place.rank == 0 and any(plan.group == "model" for plan in job.plans):
            records.append(self._write(job, INDEX_NAME, memoryview(model_index(job.plans)), "index"))
        return records

    def _write(self, job: Job, name: str, data: memoryview, group: str) -> FileRecord:
        key = f"{job.prefix}/{name}"
        record = FileRecord(key=key, size=len(data), xxh3_128=content_hash(data), group=group)
        self.patiently(lambda: self._store.put(key, data))
        return record

    def _settle(self, job: Job, receipt: Receipt) -> Outcome:
        place = self._place
        if place.rank:
            self._exchange.put(self._key(job.number, f"receipt{place.rank}"), receipt.model_dump_json().encode())
            data = self._exchange.get(self._key(job.number, "outcome"), timeout_s=2 * place.peer_timeout_s)
            return Outcome.model_validate_json(data)
        outcome = self._decide(job, receipt)
        if place.world_size > 1:
            self._exchange.put(self._key(job.number, "outcome"), outcome.model_dump_json().encode())
        return outcome

    def _decide(self, job: Job, mine: Receipt) -> Outcome:
        try:
            receipts = [mine, *self._gather(job.number)]
        except PeerLost as error:
            return Outcome(state="aborted", message=str(error))
        for receipt in receipts:
            if receipt.state == "failed":
                return Outcome(state="failed", error=receipt.error, message=receipt.message)
        if any(receipt.state == "skipped" for receipt in receipts):
            return Outcome(state="skipped", message="another rank's save before is still under way")
        if len({receipt.plan_digest for receipt in receipts}) > 1:
            return Outcome(state="failed", error="RuntimeError", message="the ranks hold tensors of different shapes")
        try:
            files = [file for receipt in receipts for file in receipt.files]
            self._check_arrived(files)
            return Outcome(state="committed", seq=self._commit(job, files).seq)
        except Sam3ftError as error:
            return Outcome(state="failed", error=name_of(error), message=str(error))

    def _gather(self, number: int) -> list[Receipt]:
        deadline = time.monotonic() + self._place.peer_timeout_s
        receipts = []
        for rank in range(1, self._place.world_size):
            key = self._key(number, f"receipt{rank}")
            data = self._exchange.get(key, timeout_s=max(0.0, deadline - time.monotonic()))
            self._exchange.forget(key)
            receipts.append(Receipt.model_validate_json(data))
        return receipts

    def _check_arrived(self, files: Sequence[FileRecord]) -> None:
        for file in files:
            try:
                size = self.patiently(partial(self._store.head, file.key)).size
            except NotFound:
                size = -1
            if size != file.size:
                raise StorageUnavailable(
                    f"{self._store.address}: {file.key} was accepted with {file.size:,} bytes and "
                    + ("is not there" if size < 0 else f"has {size:,}")
                )

    def _commit(self, job: Job, files: Sequence[FileRecord]) -> CommitEntry:
        return self._log.append(
            lambda head: CommitEntry(
                **head,
                meta=job.meta,
                prefix=job.prefix,
                files=tuple(files),
                world_size=self._place.world_size,
                dataset_digest=self._place.dataset_digest,
            )
        )

    def _account(self, job: Job, outcome: Outcome, *, seconds: float) -> None:
        more: dict[str, Any] = {"message": outcome.message} if outcome.message else {}
        if outcome.state == "committed":
            self.counters.committed += 1
            self.newest_step = job.meta.step
            more = {
                "seq": outcome.seq,
                "bytes": sum(plan.num_bytes for plan in job.plans),
                "seconds": round(seconds, 3),
            }
        elif outcome.state == "failed":
            self._fail(error_named(outcome.error, outcome.message))
        elif outcome.state == "skipped":
            self.counters.skipped += 1
        else:
            self.counters.aborted += 1
        self._events.tell(f"checkpoint_{outcome.state}", step=job.meta.step, **more)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error

    def _discard(self, job: Job) -> None:
        """Delete what this rank uploaded for a save that was decided not to be committed."""
        keys = [f"{job.prefix}/{plan.name}" for plan in job.share_of(self._place.rank)]
        try:
            self._store.delete([*keys, f"{job.prefix}/{INDEX_NAME}"] if self._place.rank == 0 else keys)
        except (StorageDenied, StorageUnavailable) as error:
            self._cleanup_failed(error)

    def _keep(self, keeper: Keeper) -> None:
        try:
            for name, fields in keeper.tidy():
                self._events.tell(name, **fields)
        except Fenced as error:
            self._fail(error)
        except (StorageDenied, StorageUnavailable, DamagedHistory) as error:
            self._cleanup_failed(error)

    def _cleanup_failed(self, error: Exception) -> None:
        self.counters.cleanup_failures += 1
        logging.getLogger(__name__).warning("clean-up of checkpoints failed, nothing is lost: %s", error)
        self._events.tell("cleanup_failed", message=str(error))

    def _key(self, number: int, what: str) -> str:
        return f"{self._place.nonce}/save{number}/{what}"
