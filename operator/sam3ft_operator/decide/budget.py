"""The ledger of `failurePolicy`: counted ends within a window, and ends in a row without a newer commit.

The ledger is bounded, however many ends are allowed: counted ends that lie within a thirtieth of the window share an
entry with the time of the newest, and entries older than the window go. So an end is forgotten too late, by a thirtieth
of the window at most, and never too early.
"""

from sam3ft_api import limits
from sam3ft_api.spec_workers import FailurePolicySpec
from sam3ft_api.status import BudgetStatus, CountedEnds, moment


def add_counted(budget: BudgetStatus, *, count: int, at_s: float, window_s: float) -> BudgetStatus:
    """Return the ledger with `count` more counted ends at one time; unchanged for none."""
    if count <= 0:
        return budget
    width_s = max(1.0, window_s / (limits.MAX_BUCKETS - 2))
    entries = sorted((*budget.counted, CountedEnds(time=moment(at_s), count=count)), key=lambda entry: entry.time)
    kept: list[CountedEnds] = []
    for entry in entries:
        if at_s - entry.time.timestamp() > window_s + 1:  # times are kept to the second
            continue
        cell = entry.time.timestamp() // width_s
        # The second reason is an entry of a policy with another window.
        if kept and (kept[-1].time.timestamp() // width_s == cell or len(kept) == limits.MAX_BUCKETS):
            entry = CountedEnds(time=entry.time, count=kept.pop().count + entry.count)  # noqa: PLW2901 - one entry of two
        kept.append(entry)
    return budget.model_copy(update={"counted": tuple(kept)})


def add_ends(budget: BudgetStatus, *, count: int, commit_step: int | None) -> BudgetStatus:
    """Return the ledger with `count` more ends of any cause; a newer commit begins the row anew."""
    known = budget.commit_step
    if commit_step is not None and (known is None or commit_step > known):
        return budget.model_copy(update={"commit_step": commit_step, "without_progress": 0})
    if count <= 0:
        return budget
    return budget.model_copy(update={"without_progress": budget.without_progress + count})


def counted_within(budget: BudgetStatus, *, window_s: float, now_s: float) -> int:
    """Return how many counted ends lie within the window."""
    return sum(entry.count for entry in budget.counted if now_s - entry.time.timestamp() <= window_s)


def exhaustion(budget: BudgetStatus, policy: FailurePolicySpec, *, now_s: float) -> str:
    """Return why the run may not be tried again, in one sentence; empty while it may."""
    counted = counted_within(budget, window_s=policy.window_seconds, now_s=now_s)
    if counted > policy.max_restarts:
        return (
            f"{counted} failures within {policy.window_seconds} s; failurePolicy.maxRestarts is {policy.max_restarts}."
        )
    if budget.without_progress >= policy.max_without_progress:
        return (
            f"{budget.without_progress} ends in a row without a newer commit; failurePolicy.maxWithoutProgress is "
            f"{policy.max_without_progress}."
        )
    return ""
