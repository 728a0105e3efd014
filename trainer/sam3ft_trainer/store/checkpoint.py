"""The run's store as the training loop sees it: open, restore, save, poll, finalize.

run = open_run_store(config.checkpoint, config.identity, facts, rank=rank, world_size=world, exchange=exchange)
restored = run.restore(tensors)              # None: start from the initial weights
...
run.save(tensors, CommitMeta(step=step, cursor=...))   # returns once the state is copied; the rest is background
run.poll()                                   # every few steps: raises what the background met
...
run.save(tensors, meta, wait=True)           # before the end, and on eviction
run.finalize(meta)
run.close()
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from sam3ft_api.errors import PeerLost
from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.store.exchange import Exchange
from sam3ft_trainer.store.keeper import Keeper
from sam3ft_trainer.store.layout import FilePlan, TensorSpec, plan_files, specs_of
from sam3ft_trainer.store.log import CHECKPOINTS, CommitLog
from sam3ft_trainer.store.nodecopy import NodeCopy
from sam3ft_trainer.store.objects import AlreadyExists, Store
from sam3ft_trainer.store.opening import Claimed, StoreOptions, claim_request, open_claimed
from sam3ft_trainer.store.records import CommitEntry, CommitMeta, ExportRecord, FinalEntry, RunFacts
from sam3ft_trainer.store.restore import Damaged, Reader, load_commit
from sam3ft_trainer.store.resuming import Restored, Resumer
from sam3ft_trainer.store.saver import Saver
from sam3ft_trainer.store.saves import Counters, Event, EventBox, Job, Place, SaveTicket
from sam3ft_trainer.store.sharing import Broadcast


class RunStore:
    """Checkpoints of one run, seen from one rank. Methods are called from one thread.

    Methods marked "all ranks" are called by all ranks in the same order; they are no collectives, and a rank that
    stays away costs the others that save or a `PeerLost` after the time-out, never a hang.
    """

    def __init__(
        self,
        log: CommitLog,
        saver: Saver,
        resumer: Resumer,
        claimed: Claimed,
        options: StoreOptions,
        *,
        events: EventBox,
        copy: NodeCopy | None,
    ) -> None:
        """Use `open_run_store`."""
        self._log, self._saver, self._resumer, self._events, self._copy = log, saver, resumer, events, copy
        self._claimed, self._options = claimed, options
        self._place = resumer.place
        self._saves = 0
        self._planned: tuple[tuple[TensorSpec, ...], tuple[FilePlan, ...]] | None = None
        saver.newest_step = claimed.newest_step

    @property
    def address(self) -> str:
        """Where the run is stored."""
        return self._log.store.address

    @property
    def objects(self) -> Store:
        """The store itself, for what belongs to the run and is no part of its history."""
        return self._log.store

    @property
    def generation(self) -> int:
        """Number of this incarnation, 1 for the first that ever claimed the address."""
        return self._claimed.generation

    @property
    def newest_step(self) -> int | None:
        """Step of the newest commit known to this rank; None without one."""
        return self._saver.newest_step

    @property
    def busy(self) -> bool:
        """Whether a save is under way on this rank; a periodic save would be skipped."""
        return self._saver.busy

    @property
    def counters(self) -> Counters:
        """Totals of this incarnation on this rank."""
        return self._saver.counters

    def restore(self, targets: Mapping[str, Tensor], *, broadcast: Broadcast | None = None) -> Restored | None:
        """Load the newest commit that verifies into `targets`; all ranks, before the first save.

        A commit of which any rank finds a file missing or changed is retired in the log, and the one before is
        taken; all ranks end up with the same commit.

        Args:
            targets: allocated tensors by `group/name`, on any device, of any layout. Values are copied in.
            broadcast: a collective of these ranks; with it each file is read by one rank alone, verified, and handed
                to the others once all have voted that theirs are whole. Without it every rank reads everything.

        Returns:
            What was restored, or None if this history has no commit: start from the initial weights. `targets` are
            untouched then.

        Raises:
            CheckpointIncompatible: other tensors; or another dataset and `data.on_change: refuse`.
            DamagedHistory: no commit verifies although there were some; `targets` must not be used.
            PeerLost: a rank stayed away. StorageUnavailable: no answer for the whole budget.
        """
        restored = self._resumer.restore(targets, broadcast)
        self._saver.newest_step = None if restored is None else restored.step
        if restored is not None and self._copy is not None:
            self._copy.tell_use(step=restored.step)
        return restored

    def save(self, tensors: Mapping[str, Tensor], meta: CommitMeta, *, wait: bool = False) -> SaveTicket:
        """Copy the state and commit it in the background; all ranks, at the same step.

        Once this returns the tensors may change. Without `wait` the save is skipped, and counted, if the one before
        is still under way on any rank.

        Args:
            tensors: the state by `group/name`, equal on all ranks. Optimizer state goes by parameter name.
            meta: the rest of the state.
            wait: first wait for the save under way, then for this one.

        Raises:
            Whatever `poll` raises; with `wait` also PeerLost if a peer was silent for too long.
        """
        self._saver.raise_error()
        self._saves += 1
        if self._saver.busy and not wait:
            return self._saver.skip(self._saves, meta)
        if self._saver.last is not None:
            self._saver.last.wait()
            self._saver.raise_error()
        job = Job(self._saves, meta, self._plans(tensors), self._new_prefix(meta.step))
        self._saver.stage(job, tensors)
        ticket = self._saver.begin(job)
        if wait:
            outcome = ticket.wait()
            self._saver.raise_error()
            if outcome.state != "committed":
                raise PeerLost(f"step {meta.step} could not be committed: {outcome.message}")
        return ticket

    def poll(self) -> list[Event]:
        """Return what happened in the background since the last call.

        Raises:
            Fenced: another incarnation has claimed the run.
            StorageUnavailable: no answer for the whole budget. StorageDenied: refused, or no room.
            RuntimeError: the ranks' states differ in shape; or any defect in the background.
        """
        self._saver.raise_error()
        return self._events.take()

    def news(self) -> list[Event]:
        """Return what happened in the background since the last call, also of a failure; raises nothing.

        For every step: what went wrong is raised by `save` and `poll`, where all ranks are at the same step.
        """
        return self._events.take()

    def tell(self, name: str, **fields: Any) -> None:
        """Put an event among the news of the background; from any thread."""
        self._events.tell(name, **fields)

    def expect(self, save_s: float | None) -> None:
        """Give the time of a save as an earlier incarnation measured it, s; it counts until there is a newer figure."""
        self._saver.speed.earlier_save_s = save_s

    @property
    def last_save_s(self) -> float | None:
        """How long the last save took from its copy to its commit, s; None before the first of this incarnation."""
        return self._saver.speed.last_save_s

    def estimated_save_s(self) -> float | None:
        """Return how long a save that is waited for would take now, s; None when nothing has been measured.

        From the rate of this rank's uploads, its share, and the time from upload to commit; what a save that is under
        way still needs comes first.
        """
        speed, share_bytes = self._saver.speed, self._saver.slab.num_bytes
        expected_s = speed.expected_s(share_bytes)
        return None if expected_s is None else speed.rest_of_running_s(share_bytes) + expected_s

    def finish_running(self, *, timeout_s: float | None) -> None:
        """Wait for the save under way, at most so long; what it met is raised by `poll`."""
        if self._saver.last is not None:
            self._saver.last.wait_at_most(timeout_s)

    def forgo_copy(self) -> None:
        """Copy nothing more for this node: the process has to end soon."""
        if self._copy is not None:
            self._copy.supersede(self._saves)

    def commits(self) -> list[CommitEntry]:
        """Return the commits that a restore may use, newest first, read from the log now."""
        return self._log.read().usable_commits()

    def load_groups(self, step: int, targets: Mapping[str, Tensor], *, groups: frozenset[str]) -> bool:
        """Load some groups of the newest usable commit of `step`, verified; each rank for itself.

        Args:
            step: of the commit.
            targets: allocated tensors by `group/name`, exactly those of the groups.
            groups: for instance model and ema, without the optimizer.

        Returns:
            False if there is no such commit, or one of its files is missing or changed. `targets` may then have been
            written and must be loaded again.
        """
        commit = next((entry for entry in self.commits() if entry.meta.step == step), None)
        if commit is None:
            return False
        try:
            load_commit(Reader(self._log.store, self._options.outage_s), commit, targets, groups=groups)
        except Damaged:
            return False
        return True

    def finished(self) -> FinalEntry | None:
        """Return the entry that ended the run, None if it has not ended or went on after it; read from the log now."""
        newest = [entry for entry in self._log.read().entries if isinstance(entry, CommitEntry | FinalEntry)][-1:]
        return newest[0] if newest and isinstance(newest[0], FinalEntry) and newest[0].what == "run" else None

    def exported(self) -> FinalEntry | None:
        """Return the entry of the export, None without one or when commits came after it; read from the log now."""
        newest = [entry for entry in self._log.read().entries if isinstance(entry, CommitEntry | FinalEntry)][-1:]
        return newest[0] if newest and isinstance(newest[0], FinalEntry) and newest[0].export is not None else None

    def record_export(self, export: ExportRecord, meta: CommitMeta) -> FinalEntry:
        """Record in the log that a model was handed over, after every byte of it was; rank 0, after the last save.

        Args:
            export: where it is and what it holds.
            meta: step and metrics of the exported weights.

        Raises:
            Fenced: another incarnation has claimed the run; the export stands, and is not recorded.
        """
        self._saver.join()
        self._saver.raise_error()
        return self._log.append(lambda head: FinalEntry(**head, what="export", meta=meta, export=export))

    def keep_note(self, key: str, content: bytes) -> None:
        """Keep a small document beside the history, unless its key is taken; it is no part of any commit.

        Raises:
            StorageDenied, StorageUnavailable: at the first refusal or missing answer.
        """
        with suppress(AlreadyExists):
            self._log.store.put_if_absent(key, content)

    def finalize(self, meta: CommitMeta) -> FinalEntry:
        """Record that the run has ended; rank 0, after the last save.

        Raises:
            Fenced: another incarnation has claimed the run.
        """
        self._saver.join()
        self._saver.raise_error()
        return self._log.append(lambda head: FinalEntry(**head, what="run", meta=meta))

    def close(self, *, timeout_s: float = 60.0) -> None:
        """Wait for the save under way, at most `timeout_s` seconds; raises nothing and may be called twice."""
        self._saver.join(timeout_s)

    def _plans(self, tensors: Mapping[str, Tensor]) -> tuple[FilePlan, ...]:
        specs = specs_of(tensors)
        if self._planned is None or self._planned[0] != specs:
            plans = plan_files(specs, world_size=self._place.world_size, max_file_bytes=self._options.max_file_bytes)
            self._planned = (specs, plans)
        return self._planned[1]

    def _new_prefix(self, step: int) -> str:
        return f"{CHECKPOINTS}/g{self.generation:04d}-s{step:08d}-{self._claimed.nonce[:8]}-{self._saves}"


def open_run_store(
    config: CheckpointConfig,
    identity: IdentityConfig,
    facts: RunFacts,
    *,
    rank: int,
    world_size: int,
    exchange: Exchange,
    options: StoreOptions | None = None,
    store: Store | None = None,
) -> RunStore:
    """Claim the run at `config.uri`; all ranks. Every earlier incarnation is fenced once this returns.

    Args:
        config: where, how much is kept, resume and adopt.
        identity: who runs.
        facts: what is computed.
        rank: of this process.
        world_size: of this round.
        exchange: to the other ranks, empty at the start of the round; `LocalExchange()` for one process.
        options: limits; the defaults are meant for use.
        store: already opened store instead of `config.uri`.

    Raises:
        InvalidConfig: no or an unknown address.
        CheckpointIncompatible: the address belongs to another owner, task, settings or model; `resume: must`
            without a commit. `DamagedHistory`, a kind of it: the log has lost entries or all its commits.
        StorageDenied: refused, or the store cannot fence. StorageUnavailable: no answer for the whole budget.
        PeerLost: rank 0 did not come.
    """
    options = options or StoreOptions()
    request = claim_request(config, identity, facts, world_size)
    log, claimed = open_claimed(config, request, rank=rank, exchange=exchange, options=options, store=store)
    place = Place(
        rank=rank,
        world_size=world_size,
        generation=claimed.generation,
        nonce=claimed.nonce,
        dataset_digest=facts.dataset_digest,
        outage_s=options.outage_s,
        peer_timeout_s=options.peer_timeout_s,
    )
    keeper = Keeper(
        store=log.store,
        log=log,
        generation=claimed.generation,
        keep_last=config.keep_last,
        keep_best=config.keep_best,
        metric=options.best_metric,
        orphan_age_s=options.orphan_age_s,
        clock=options.clock,
    )
    events = EventBox()
    copy = _copy_on_this_node(log.store.address, options, events)
    saver = Saver(log, exchange, place, events, keeper=keeper if rank == 0 else None, copy=copy)
    resumer = Resumer(
        log, exchange, place, facts, copy=copy, max_file_bytes=options.max_file_bytes, clock=options.clock
    )
    return RunStore(log, saver, resumer, claimed, options, events=events, copy=copy)


def _copy_on_this_node(address: str, options: StoreOptions, events: EventBox) -> NodeCopy | None:
    if options.cache_dir is None:
        return None
    return NodeCopy(options.cache_dir, address, tell=events.tell, clock=options.clock)
