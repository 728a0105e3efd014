"""Cleaning up after a commit: retire what need not be kept, delete it, sweep what dead incarnations left."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sam3ft_trainer.store.log import CHECKPOINTS, CommitLog
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.records import RetireEntry
from sam3ft_trainer.store.retention import commits_to_retire, orphans
from sam3ft_trainer.store.tails import forget_old_tails


@dataclass(slots=True)
class Keeper:
    """Deletes, on rank 0 and only after a newer commit is durable.

    Attributes:
        store: rooted at the run's address.
        log: holds this incarnation's claim.
        generation: of the claim.
        keep_last: newest commits to keep.
        keep_best: commits to keep for their score.
        metric: which score.
        orphan_age_s: an unreferenced prefix of an older generation is left alone for this long, s.
        clock: seconds since the epoch.
    """

    store: Store
    log: CommitLog
    generation: int
    keep_last: int
    keep_best: int
    metric: str | None
    orphan_age_s: float
    clock: Callable[[], float]
    _swept: bool = field(default=False)

    def tidy(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Retire and delete; yields what was done as (event, fields).

        The retire entry is created first. It can be created only while no newer generation has claimed the run, and
        from then on nobody restores those commits: deleting them afterwards is safe however late it happens.

        Raises:
            Fenced: a newer generation has claimed the run; nothing was deleted.
            StorageDenied, StorageUnavailable: something could not be deleted; a later sweep will.
        """
        retiring = commits_to_retire(
            self.log.history, keep_last=self.keep_last, keep_best=self.keep_best, metric=self.metric
        )
        if retiring:
            seqs = tuple(commit.seq for commit in retiring)
            self.log.append(lambda head: RetireEntry(**head, seqs=seqs, reason="retention"))
            for commit in retiring:
                self.store.delete_prefix(commit.prefix)
            yield "checkpoints_retired", {"steps": [commit.meta.step for commit in retiring]}
        if not self._swept:
            self._swept = True
            yield from self._sweep()

    def _sweep(self) -> Iterator[tuple[str, dict[str, Any]]]:
        found = orphans(
            self.store.list_prefixes(CHECKPOINTS),
            self.log.history,
            generation=self.generation,
            now_unix_s=self.clock(),
            min_age_s=self.orphan_age_s,
        )
        for prefix in found:
            self.store.delete_prefix(prefix)
        if found:
            yield "orphans_swept", {"prefixes": found}
        forget_old_tails(self.store)
