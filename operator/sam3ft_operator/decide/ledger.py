"""The attempts of the status: opening one, counting the ends of its pods, closing it."""

from typing import Any

from sam3ft_api import limits, names
from sam3ft_api.status import AttemptStatus, BudgetStatus, FirstFailure
from sam3ft_operator.decide.budget import add_counted, add_ends, moment
from sam3ft_operator.decide.ends import PodEnd, Weight, end_of
from sam3ft_operator.decide.look import Look
from sam3ft_operator.observed import PodView

EXCLUDE_AFTER = 2
"""Counted failures of one run on a node after which the next attempt avoids it."""
MOST_EXCLUDED = 16
"""Nodes that a run avoids at most: a run that fails on more of them is itself the cause."""


def opened(look: Look) -> dict[str, Any]:
    """Return the changes that open the next attempt."""
    number = look.newest.n + 1 if look.newest is not None else 1
    attempt = AttemptStatus(n=number, started=moment(look.now_s))
    changes: dict[str, Any] = {"attempts": (*look.status.attempts, attempt)[-limits.MAX_ATTEMPTS_KEPT :]}
    return changes if look.status.started is not None else {**changes, "started": attempt.started}


def counted(look: Look, ends: tuple[PodEnd, ...]) -> dict[str, Any]:
    """Return the changes that put new ends of the open attempt into attempt and ledger; none when all are there.

    Pods that failed stay until their Job is deleted, so that how many there are is enough to know which are new.
    """
    attempt = look.attempt
    if attempt is None:
        return {}
    weighed = [end for end in ends if end.weight is Weight.COUNTED]
    group = look.group
    # A death makes the group form again: the two are one end. Ends that nobody saw as a pod count by the formation.
    all_ends = max(len(ends), group.rounds - 1 if group is not None else 0, attempt.ends)
    num_counted = max(len(weighed), attempt.counted)
    new_counted = num_counted - attempt.counted
    commits = [end.commit_step for end in ends if end.commit_step is not None]
    if group is not None and group.commit_step is not None:
        commits.append(group.commit_step)
    before = look.status.budget or BudgetStatus()
    at_s = max((end.at_s for end in weighed), default=look.now_s)
    budget = add_counted(before, count=new_counted, at_s=at_s)
    budget = add_ends(budget, count=all_ends - attempt.ends, commit_step=max(commits, default=None))
    changes: dict[str, Any] = {}
    if budget != before:
        changes["budget"] = budget
    if new_counted:
        changes["restarts"] = look.status.restarts + new_counted
    first = attempt.first_failure or first_failure(ends)
    updated = attempt.model_copy(update={"ends": all_ends, "counted": num_counted, "first_failure": first})
    if updated != attempt:
        changes["attempts"] = (*look.status.attempts[:-1], updated)
    return changes


def closed(
    look: Look, changes: dict[str, Any], *, reason: str, end: PodEnd | None = None, code: int | None = None
) -> dict[str, Any]:
    """Return `changes` with the open attempt ended.

    Args:
        look: of this moment.
        changes: so far, perhaps with a newer form of the attempt.
        reason: CamelCase word.
        end: what ended it; None when no pod did.
        code: exit code of the run where it is known without an end.
    """
    attempts = changes.get("attempts", look.status.attempts)
    attempt = attempts[-1]
    update: dict[str, Any] = {
        "reason": reason,
        "exit_code": end.code if end is not None else code,
        "finished": moment(look.now_s),
    }
    if end is not None:
        update["first_failure"] = end.failure if end.weight is Weight.VERDICT else attempt.first_failure or end.failure
    update["lost_steps"] = lost_steps(look, end)
    return {**changes, "attempts": (*attempts[:-1], attempt.model_copy(update=update))}


def lost_steps(look: Look, end: PodEnd | None) -> int | None:
    """Return the steps after the newest commit, to be done again; None where nothing is known."""
    group = look.group
    progress = group.progress if group is not None else None
    step = end.step if end is not None and end.step is not None else progress.step if progress is not None else None
    commits = [end.commit_step if end is not None else None, group.commit_step if group is not None else None]
    commit = max((step for step in commits if step is not None), default=None)
    return None if step is None else max(0, step - (commit or 0))


def ends_of(pods: tuple[PodView, ...]) -> tuple[PodEnd, ...]:
    """Return the ends of those pods that ended badly, the earliest first."""
    found = [end for pod in pods if (end := end_of(pod)) is not None]
    return tuple(sorted(found, key=lambda end: end.at_s))


def first_failure(ends: tuple[PodEnd, ...]) -> FirstFailure | None:
    """Return what failed first among ends that are not free."""
    return next((end.failure for end in ends if end.weight is not Weight.FREE), None)


def excluded_nodes(look: Look) -> tuple[str, ...]:
    """Return the nodes that the next attempt avoids: those on which this run has failed again and again."""
    failed: dict[str, int] = {}
    for attempt in look.status.attempts:
        node = attempt.first_failure.node if attempt.first_failure is not None else ""
        if node and attempt.counted:
            failed[node] = failed.get(node, 0) + 1
    worst = sorted(
        (node for node, count in failed.items() if count >= EXCLUDE_AFTER), key=lambda node: (-failed[node], node)
    )
    return tuple(sorted(worst[:MOST_EXCLUDED]))


def workers_gone(look: Look) -> bool:
    """Say whether no pod of any worker may still do something."""
    return not look.living and not any(
        job.active for job in look.children.jobs if job.role == names.ROLE_WORKER and not job.has_ended
    )
