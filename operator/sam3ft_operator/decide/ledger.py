"""The attempts of the status: opening one, counting the ends of its pods, closing it."""

from typing import Any

from sam3ft_api import limits, names
from sam3ft_api.status import AttemptStatus, BudgetStatus, FirstFailure, moment
from sam3ft_api.worker import step_or_none
from sam3ft_operator.decide.budget import add_counted, add_ends
from sam3ft_operator.decide.ends import PodEnd, Weight, end_of
from sam3ft_operator.decide.look import Look

TOGETHER_S = 60.0
"""Pods that end within so long of each other end once: a rack without power is one failure, not eight."""


def opened(look: Look) -> dict[str, Any]:
    """Return the changes that open the next attempt."""
    number = look.newest.n + 1 if look.newest is not None else 1
    attempt = AttemptStatus(n=number, started=moment(look.now_s))
    changes: dict[str, Any] = {"attempts": (*look.status.attempts, attempt)[-limits.MAX_ATTEMPTS_KEPT :]}
    return changes if look.status.started is not None else {**changes, "started": attempt.started}


def ends_of(look: Look) -> tuple[PodEnd, ...]:
    """Return the ends of those pods of the open attempt that ended badly, the earliest first.

    Pods that were asked to go end without a failure: all of them during a pause, Kueue's too, and those beyond the
    wanted number when the run is made smaller.
    """
    nodes, job = look.spec.workers.nodes, look.job
    is_paused = look.spec.suspend or (job is not None and job.is_suspended)
    found = [end for pod in look.workers if (end := end_of(pod)) is not None]
    kept = [
        end
        for end in found
        if end.weight is not Weight.FREE or not (is_paused or (end.index is not None and end.index >= nodes))
    ]
    return tuple(sorted(kept, key=lambda end: end.at_s))


def incidents(ends: tuple[PodEnd, ...]) -> tuple[tuple[PodEnd, ...], ...]:
    """Return the ends in groups that count as one each: close together in time, and every pod once.

    Args:
        ends: the earliest first.
    """
    groups: list[list[PodEnd]] = []
    for end in ends:
        newest = groups[-1] if groups else []
        is_again = end.index is None or any(end.index == other.index for other in newest)
        if newest and not is_again and end.at_s - newest[0].at_s <= TOGETHER_S:
            newest.append(end)
        else:
            groups.append([end])
    return tuple(tuple(group) for group in groups)


def counted(look: Look, ends: tuple[PodEnd, ...]) -> dict[str, Any]:
    """Return the changes that put new ends of the open attempt into attempt and ledger; none when all are there.

    Pods that failed stay until their Job is deleted, so that how many there are is enough to know which are new.
    """
    attempt = look.attempt
    if attempt is None:
        return {}
    all_incidents = incidents(ends)
    weighed = [group for group in all_incidents if any(end.weight is Weight.COUNTED for end in group)]
    num_ends, num_counted = max(len(all_incidents), attempt.ends), max(len(weighed), attempt.counted)
    commits = [end.commit_step for end in ends if end.commit_step is not None]
    if look.group is not None and (told := step_or_none(look.group.commit_step)) is not None:
        commits.append(told)
    before = look.status.budget or BudgetStatus()
    at_s = min(look.now_s, max((end.at_s for group in weighed for end in group), default=look.now_s))
    window_s = look.spec.failure_policy.window_seconds
    budget = add_counted(before, count=num_counted - attempt.counted, at_s=at_s, window_s=window_s)
    budget = add_ends(budget, count=num_ends - attempt.ends, commit_step=max(commits, default=None))
    changes: dict[str, Any] = {}
    if budget != before:
        changes["budget"] = budget
    if num_counted > attempt.counted:
        changes["restarts"] = look.status.restarts + num_counted - attempt.counted
    first = attempt.first_failure or first_failure(ends)
    updated = attempt.model_copy(update={"ends": num_ends, "counted": num_counted, "first_failure": first})
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
    told = group.progress if group is not None else None
    step = end.step if end is not None and end.step is not None else step_or_none(told.step) if told else None
    commits = [end.commit_step if end is not None else None, step_or_none(group.commit_step) if group else None]
    commit = max((known for known in commits if known is not None), default=0)
    return None if step is None else max(0, step - commit)


def recovered(look: Look, attempts: tuple[AttemptStatus, ...]) -> tuple[AttemptStatus, ...]:
    """Return the attempts with the seconds that the one before the open one took to be made good, once they are known.

    They end with the first step that the open attempt finishes. After a pause nothing had to be made good.
    """
    told = look.group.progress if look.group is not None else None
    if look.attempt is None or told is None or told.last_step_unix_s is None or len(attempts) < 2:
        return attempts
    last = attempts[-2]
    if last.recovery_seconds is not None or last.finished is None or last.reason == "Suspended":
        return attempts
    seconds = max(0.0, min(told.last_step_unix_s, look.now_s) - last.finished.timestamp())
    return (*attempts[:-2], last.model_copy(update={"recovery_seconds": round(seconds, 1)}), attempts[-1])


def with_last_words(look: Look) -> dict[str, Any]:
    """Return the changes that complete an attempt which a verdict has ended with what its pods said only afterwards.

    The coordinator tells a verdict within seconds; the words of the failing rank, with its traceback, come with the end
    of its pod.
    """
    newest = look.newest
    if newest is None or newest.first_failure is None or newest.exit_code is None:
        return {}
    known = newest.first_failure
    said = [
        end.failure
        for pod in look.children.of_role(names.ROLE_WORKER, attempt=newest.n)
        if (end := end_of(pod)) is not None and end.code == newest.exit_code and end.weight is Weight.VERDICT
    ]
    same = [failure for failure in said if known.rank is None or failure.rank == known.rank]
    best = max(same, key=lambda failure: (failure.rank is not None, len(failure.message)), default=known)
    if (best.rank is not None, len(best.message)) <= (known.rank is not None, len(known.message)):
        return {}
    return {"attempts": (*look.status.attempts[:-1], newest.model_copy(update={"first_failure": best}))}


def first_failure(ends: tuple[PodEnd, ...]) -> FirstFailure | None:
    """Return what failed first among ends that are not free."""
    return next((end.failure for end in ends if end.weight is not Weight.FREE), None)


def workers_gone(look: Look) -> bool:
    """Say whether no pod of any worker may still do something."""
    return not look.living and not any(
        job.active for job in look.children.jobs if job.role == names.ROLE_WORKER and not job.has_ended
    )
