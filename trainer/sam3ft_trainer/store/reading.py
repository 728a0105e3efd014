"""Commits as somebody reads them who does not own the run: nothing is claimed, written, retired or deleted."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sam3ft_api.errors import CheckpointIncompatible, InvalidConfig
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.history import History
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.objects import READ_OUTAGE_S, Store
from sam3ft_trainer.store.records import CommitEntry, RunFacts
from sam3ft_trainer.store.restore import Damaged, Reader, load_commit
from sam3ft_trainer.store.uri import open_store

_SHOWN_STEPS = 8


@dataclass(frozen=True, slots=True)
class ReadCommit:
    """What was read.

    Attributes:
        commit: its log entry.
        passed_over: one line for each newer commit that could not be read.
    """

    commit: CommitEntry
    passed_over: tuple[str, ...]


class RunReader:
    """A run's history and weights, while the run itself may go on: a live run is neither fenced nor slowed."""

    def __init__(self, store: Store, *, outage_s: float = READ_OUTAGE_S) -> None:
        """Read the run in `store`.

        Args:
            store: rooted at the run's address.
            outage_s: how long an unanswered request is repeated, s.
        """
        self._log = CommitLog(store, outage_s=outage_s)
        self._reader = Reader(store, outage_s)

    @property
    def address(self) -> str:
        """Where the run is stored."""
        return self._log.store.address

    def history(self) -> History:
        """Return the log as it is now.

        Raises:
            DamagedHistory: entries are missing or changed.
            CheckpointIncompatible: there is no run at this address, or it has not committed anything yet.
            StorageDenied, StorageUnavailable: as the store says.
        """
        history = self._log.read()
        if not history.had_commits():
            state = "holds no run" if not history.entries else "has no commit yet"
            raise CheckpointIncompatible(f"{self.address} {state}; check the address, or wait for its first checkpoint")
        return history

    def facts(self) -> RunFacts:
        """Return what the newest claim says is computed; raises as `history`."""
        return self.history().claims[-1].facts

    def load(self, targets: Mapping[str, Tensor], *, groups: frozenset[str], step: int | None = None) -> ReadCommit:
        """Load some groups of a commit, every byte verified.

        The run's retention may delete a commit while it is read; then the newest one is taken instead, unless the
        step was named.

        Args:
            targets: allocated tensors by `group/name`, exactly those of the groups.
            groups: for instance model and ema, without the optimizer.
            step: of the commit; None takes the newest that can be read.

        Raises:
            InvalidConfig: no commit of this step is kept; the message lists those that are.
            CheckpointIncompatible: no commit can be read, or it holds other tensors.
            DamagedHistory, StorageDenied, StorageUnavailable: as `history`.
        """
        damage: dict[int, str] = {}
        while True:
            commit = self._next(self.history(), step, damage)
            try:
                load_commit(self._reader, commit, targets, groups=groups)
            except Damaged as found:
                damage[commit.seq] = f"step {commit.meta.step} cannot be read: {found}"
            else:
                return ReadCommit(commit, tuple(damage.values()))

    def _next(self, history: History, step: int | None, damage: Mapping[int, str]) -> CommitEntry:
        usable = history.usable_commits()
        wanted = [commit for commit in usable if step is None or commit.meta.step == step]
        for commit in wanted:
            if commit.seq not in damage:
                return commit
        if damage:
            raise CheckpointIncompatible(f"{self.address}: {'; '.join(damage.values())}")
        steps = [str(commit.meta.step) for commit in usable]
        kept = ", ".join(steps[:_SHOWN_STEPS]) + (", ..." if len(steps) > _SHOWN_STEPS else "")
        raise InvalidConfig(f"{self.address} keeps no commit of step {step}; it has {kept or 'none'}")


def open_run_reader(address: str | None, *, access: Access | None = None) -> RunReader:
    """Open the run at `checkpoint.uri` for reading, with the run's access; None as in `open_store`.

    Raises:
        InvalidConfig: no address, or a malformed one.
        StorageDenied: the folder does not exist.
    """
    if address is None:
        raise InvalidConfig("checkpoint.uri is not set, so that nothing says where the run's commits are")
    return RunReader(open_store(address, access=access))
