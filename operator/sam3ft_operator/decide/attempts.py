"""One attempt from its opening to its end: what ended, whether to go on, and how."""

from dataclasses import dataclass, replace
from typing import Any

from sam3ft_api.status import AttemptStatus, BudgetStatus, ExportStatus, Phase
from sam3ft_operator.decide import ledger
from sam3ft_operator.decide.budget import add_counted, add_ends, counted_within, exhaustion
from sam3ft_operator.decide.course import Course
from sam3ft_operator.decide.ends import PodEnd, Weight, end_of_group, end_of_job
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.mend import missing, remove_older, written_off
from sam3ft_operator.decide.nodes import NO_NODE_LEFT, PATIENCE_S, excluded_nodes, finds_none
from sam3ft_operator.decide.recovery import recovers
from sam3ft_operator.decide.scale import scale_actions
from sam3ft_operator.decide.stall import stalled_for
from sam3ft_operator.decide.standing import standing
from sam3ft_operator.decide.words import cut, span
from sam3ft_operator.decision import Note

MOST_ENDS = 4
"""Failed pods of one Job after which a fresh attempt is made: the Job controller would wait 80 s for the next one."""
PAUSES_S = (0.0, 10.0, 20.0, 40.0, 60.0)
"""Pause before an attempt, by the ends in a row without a newer commit."""
LOOK_AGAIN_S = 15.0


def attempt_course(look: Look) -> Course:
    """Return what follows for a run whose data set is ready and that nobody has paused or ended."""
    if look.attempt is None:
        return _between(look)
    ends = ledger.ends_of(look)
    changes = ledger.counted(look, ends)
    if _is_complete(look):
        return succeeded(look, changes)
    verdict = _verdict(look, ends)
    if verdict is not None:
        return failed(look, changes, reason=verdict.reason, message=verdict.message, end=verdict)
    spent = _spent(look, changes, ends)
    if spent is not None:
        return spent
    return _rolled(look, ends, changes) or _going_on(look, ends, changes)


def failed(look: Look, changes: dict[str, Any], *, reason: str, message: str, end: PodEnd | None) -> Course:
    """Return the end of the run as Failed; its open attempt is closed."""
    closed = ledger.closed(look, changes, reason=end.reason if end is not None else reason, end=end)
    return Course(
        Phase.FAILED, reason, message, changes=closed, notes=(Note("Warning", reason, message),), requeue_s=0.0
    )


def pause_s(without_progress: int) -> float:
    """Return the pause before the next try, by the ends in a row that brought nothing."""
    return PAUSES_S[min(without_progress, len(PAUSES_S) - 1)]


def succeeded(look: Look, changes: dict[str, Any]) -> Course:
    """Return the end of the run as Succeeded; its open attempt is closed."""
    closed = ledger.closed(look, changes, reason="Succeeded", code=0)
    closed["attempts"] = (*closed["attempts"][:-1], closed["attempts"][-1].model_copy(update={"lost_steps": None}))
    if look.spec.export.uri:
        closed["export"] = ExportStatus(uri=look.spec.export.uri)
    message = f"The run is complete: {look.spec.export.uri}" if look.spec.export.uri else "The run is complete."
    return Course(
        Phase.SUCCEEDED,
        "Succeeded",
        message,
        changes=closed,
        notes=(Note("Normal", "Succeeded", message),),
        requeue_s=0.0,
    )


def _is_complete(look: Look) -> bool:
    """All pods have succeeded, or the group says that commit and export are verified and no pod is left to end."""
    job, group = look.job, look.group
    if job is not None and job.is_complete:
        return True
    return group is not None and group.state == "complete" and not look.living


def _verdict(look: Look, ends: tuple[PodEnd, ...]) -> PodEnd | None:
    """Return what ends the run: a pod's word first, because it names rank and traceback."""
    found = next((end for end in ends if end.weight is Weight.VERDICT), None)
    told = _told(look)
    if found is None and told is not None and told.weight is Weight.VERDICT:
        found = told
    job = look.job
    if found is None and job is not None and job.failure_reason:
        found = end_of_job(job.failure_reason, job.failure_message, at_s=look.now_s)
    return found


def _told(look: Look) -> PodEnd | None:
    group = look.group
    return end_of_group(group.verdict, at_s=group.read_s) if group is not None and group.verdict is not None else None


def _spent(look: Look, changes: dict[str, Any], ends: tuple[PodEnd, ...]) -> Course | None:
    """Return the end of a run that has spent its failure policy; None while it has not."""
    budget = changes.get("budget", look.status.budget) or BudgetStatus()
    spent = exhaustion(budget, look.spec.failure_policy, now_s=look.now_s)
    if not spent:
        return None
    last = ends[-1] if ends else None
    message = cut(f"{spent} {last.message if last is not None else ''}".strip(), 1024)
    return failed(look, changes, reason="BudgetSpent", message=message, end=last)


@dataclass(frozen=True, slots=True)
class _Roll:
    """Why an attempt is closed to open a fresh one; what it costs beside the ends that were counted already."""

    reason: str
    why: str
    end: PodEnd | None
    is_fruitless: bool = False
    is_counted: bool = False


def _why_roll(look: Look, ends: tuple[PodEnd, ...]) -> _Roll | None:
    job, number, told = look.job, look.attempt.n if look.attempt is not None else 0, _told(look)
    last = ends[-1] if ends else None
    if told is not None:
        # Whoever joins this group hears the same, so only another group can go on.
        return _Roll(told.reason, told.message.rstrip("."), told, is_fruitless=not ends)
    if job is not None and job.failure_reason:
        why = f"Job {job.name} failed: {job.failure_reason}: {job.failure_message.rstrip('.')}"
        return _Roll(last.reason if last is not None else "JobFailed", why, last, is_fruitless=not ends)
    is_whole = sum(pod.attempt == number for pod in look.living) >= look.spec.workers.nodes
    if last is not None and len(ends) >= MOST_ENDS and not is_whole:
        return _Roll(last.reason, f"{len(ends)} pods of attempt {number} have ended", last)
    stall_s = stalled_for(look)
    if stall_s is not None:
        # Rounded, so that two looks at the same silence say the same.
        why = f"no step has finished for {span(stall_s // 60 * 60)}"
        return _Roll("Hung", why, None, is_fruitless=True, is_counted=True)
    if finds_none(look):
        names = ", ".join(excluded_nodes(look))
        return _Roll(NO_NODE_LEFT, f"no node was found beside those avoided ({names}) within {span(PATIENCE_S)}", None)
    return None


def _rolled(look: Look, ends: tuple[PodEnd, ...], changes: dict[str, Any]) -> Course | None:
    """Return the course that closes the attempt to open a fresh one; None while this one can go on."""
    roll = _why_roll(look, ends)
    if roll is None:
        return None
    closed = ledger.closed(look, changes, reason=roll.reason, end=roll.end)
    budget = closed.get("budget", look.status.budget) or BudgetStatus()
    if roll.is_counted:
        budget = add_counted(budget, count=1, at_s=look.now_s, window_s=look.spec.failure_policy.window_seconds)
        closed["restarts"] = closed.get("restarts", look.status.restarts) + 1
        closed["attempts"] = _counting_one_more(closed["attempts"])
    closed["budget"] = add_ends(budget, count=int(roll.is_fruitless), commit_step=None)
    spent = _spent(look, closed, ends)
    if spent is not None:
        return replace(spent, changes={**spent.changes, "attempts": closed["attempts"]})
    message = cut(f"{roll.why}; a fresh attempt goes on from the newest commit.", 1024)
    note = Note("Warning", roll.reason, message)
    is_counted = roll.is_counted or "restarts" in changes
    claims = recovers(look, (roll.reason, message) if is_counted else None)
    return Course(Phase.RESTARTING, roll.reason, message, changes=closed, claims=claims, notes=(note,), requeue_s=0.0)


def _counting_one_more(attempts: tuple[AttemptStatus, ...]) -> tuple[AttemptStatus, ...]:
    last = attempts[-1]
    more = last.model_copy(update={"ends": last.ends + 1, "counted": last.counted + 1})
    return (*attempts[:-1], more)


def _between(look: Look) -> Course:
    """No attempt is open: remove what the last one left, wait its pause, and open the next."""
    is_first = look.newest is None
    phase = Phase.STARTING if is_first else Phase.RESTARTING
    if remove_older(look) or not ledger.workers_gone(look):
        return Course(
            phase,
            "CleaningUp",
            "Pods of the attempt before are ended.",
            claims=recovers(look),
            actions=(*remove_older(look), *written_off(look)),
            requeue_s=LOOK_AGAIN_S,
        )
    left_s = pause_left_s(look)
    if left_s > 0:
        stuck = (look.status.budget or BudgetStatus()).without_progress
        message = f"The next attempt begins after a pause of {span(pause_s(stuck))}."
        return Course(phase, "BackOff", message, claims=recovers(look), requeue_s=left_s)
    changes = ledger.opened(look)
    number, nodes, avoided = changes["attempts"][-1].n, look.spec.workers.nodes, excluded_nodes(look)
    message = f"Attempt {number} starts with {nodes} node{'s' if nodes > 1 else ''}."
    was_paused = look.newest is not None and look.newest.reason == "Suspended"
    notes = [Note("Normal", "Resumed" if was_paused else "Starting", message)]
    if avoided:
        text = f"Attempt {number} avoids {', '.join(avoided)}: the run has failed there again and again."
        notes.append(Note("Warning", "NodesAvoided", cut(text, 1024)))
    claims = recovers(look)
    return Course(phase, "Starting", message, changes=changes, claims=claims, notes=tuple(notes), requeue_s=0.0)


def pause_left_s(look: Look) -> float:
    """Return how long the next attempt has to wait for, by how the one before it ended; 0 or less when it may begin."""
    newest = look.newest
    if newest is None or newest.finished is None or newest.reason == "Suspended":
        return 0.0
    stuck = (look.status.budget or BudgetStatus()).without_progress
    return newest.finished.timestamp() + pause_s(stuck) - look.now_s


def _going_on(look: Look, ends: tuple[PodEnd, ...], changes: dict[str, Any]) -> Course:
    """The attempt is open: make what is missing of it, mend what is broken, and say how far it is."""
    course = standing(look)
    notes, newest = course.notes, None
    if "restarts" in changes:
        last = next(end for end in reversed(ends) if end.weight is Weight.COUNTED)
        policy = look.spec.failure_policy
        used = counted_within(changes["budget"], window_s=policy.window_seconds, now_s=look.now_s)
        text = f"{last.message} Restart {used} of {policy.max_restarts} within {span(policy.window_seconds)}."
        notes = (*notes, Note("Warning", last.reason, cut(text, 1024)))
        newest = last.reason, last.message
    return replace(
        course,
        changes=changes,
        claims=(*recovers(look, newest), *course.claims),
        notes=notes,
        actions=(*remove_older(look), *missing(look), *scale_actions(look), *written_off(look)),
        requeue_s=min(LOOK_AGAIN_S, course.requeue_s) if course.requeue_s is not None else LOOK_AGAIN_S,
    )
