"""Which commits are kept, and which prefixes nobody refers to; decisions only."""

import math
from collections.abc import Iterable

from sam3ft_trainer.store.history import History
from sam3ft_trainer.store.log import generation_of
from sam3ft_trainer.store.objects import PrefixInfo
from sam3ft_trainer.store.records import CommitEntry


def best_commits(history: History, *, metric: str | None, count: int) -> list[CommitEntry]:
    """Return the `count` usable commits with the highest `metric`, best first; the earlier of equals.

    Commits without the metric, or with a value that is not finite, do not take part.
    """
    if metric is None:
        return []
    scored = [c for c in history.usable_commits() if math.isfinite(c.meta.metrics.get(metric, math.nan))]
    return sorted(scored, key=lambda c: (-c.meta.metrics[metric], c.seq))[:count]


def commits_to_retire(history: History, *, keep_last: int, keep_best: int, metric: str | None) -> list[CommitEntry]:
    """Return the live commits that are neither among the last `keep_last` nor the best `keep_best`.

    Commits of a history that was started over count as older ones: they go once there are enough new ones.
    """
    live = history.live_commits()
    kept = {c.seq for c in live[-keep_last:]} | {c.seq for c in best_commits(history, metric=metric, count=keep_best)}
    return [commit for commit in live if commit.seq not in kept]


def orphans(
    prefixes: Iterable[PrefixInfo], history: History, *, generation: int, now_unix_s: float, min_age_s: float
) -> list[str]:
    """Return the prefixes that no live entry refers to and no living process can be writing.

    Only prefixes of generations older than `generation`, untouched for `min_age_s` seconds; foreign names are left.
    """
    referred = {commit.prefix for commit in history.live_commits()}
    return [
        info.prefix
        for info in prefixes
        if info.prefix not in referred
        and (generation_of(info.prefix) or generation) < generation
        and now_unix_s - info.modified_unix_s > min_age_s
    ]
