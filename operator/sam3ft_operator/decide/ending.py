"""A run that has ended: nothing of it may go on, its children go when their time has come, `retry` begins anew."""

from sam3ft_api import names
from sam3ft_api.status import BudgetStatus, Condition, ConditionType, Phase
from sam3ft_operator.decide.attempts import failed
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.ledger import counted, ends_of, with_last_words
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.mend import coordinators_gone, written_off
from sam3ft_operator.decide.suspend import saving_course, stop_actions
from sam3ft_operator.decide.words import span
from sam3ft_operator.decision import Action, Delete, Note

DEADLINE = "DeadlineExceeded"
LOOK_AGAIN_S = 15.0


def retry_course(look: Look) -> Course | None:
    """Return the beginning of another try when `retry` was raised on a Failed run; None otherwise.

    The data set counts as unknown again: what a check or a worker refused may have been mended since.
    """
    if look.status.phase is not Phase.FAILED or look.spec.retry <= look.status.retried:
        return None
    message = f"Try {look.spec.retry + 1} goes on from the newest commit."
    changes = {"retried": look.spec.retry, "budget": BudgetStatus(), "restarts": 0}
    claim = Claim(ConditionType.DATASET_READY, "Unknown", "Retrying", "The data set is checked again.")
    note = Note("Normal", "Retrying", message)
    return Course(Phase.PENDING, "Retrying", message, changes=changes, claims=(claim,), notes=(note,), requeue_s=0.0)


def seconds_to_deadline(look: Look) -> float | None:
    """Return the seconds until `activeDeadlineSeconds` are over; None without a deadline or before the first start.

    Counted from the first start by the clock on the wall, so also while suspended: what the deadline bounds is when the
    run is over, not how long it trains (`training.maxDuration` bounds that).
    """
    limit_s, begun = look.spec.active_deadline_seconds, look.status.started
    return None if limit_s is None or begun is None else begun.timestamp() + limit_s - look.now_s


def deadline_message(look: Look) -> str:
    """Return what a person is told about a run whose time is over."""
    return f"activeDeadlineSeconds: {span(look.spec.active_deadline_seconds or 0)} have passed since the first start."


def deadline_course(look: Look) -> Course | None:
    """Return the end of a run that is older than `activeDeadlineSeconds`, once its workers have saved and ended."""
    left_s = seconds_to_deadline(look)
    if left_s is None or left_s > 0:
        return None
    message = deadline_message(look)
    if look.attempt is None:
        return Course(Phase.FAILED, DEADLINE, message, notes=(Note("Warning", DEADLINE, message),), requeue_s=0.0)
    saving = saving_course(look, DEADLINE, f"{message} The workers save a checkpoint and end.")
    if saving is not None:
        return saving
    return failed(look, counted(look, ends_of(look)), reason=DEADLINE, message=message, end=None)


def ended_course(look: Look) -> Course:
    """Return what a finished run asks for: its workers stopped, its coordinator gone, its children deleted in time."""
    phase = look.status.phase or Phase.FAILED
    summary = look.status.summary
    message = summary.message if summary is not None else ""
    reason, changes = _reason(look), with_last_words(look)
    due_s = _seconds_to_cleanup(look)
    if due_s is not None and due_s <= 0:
        return Course(phase, reason, message, changes, actions=(*_everything(look), *written_off(look)))
    actions = (*_stop_all(look), *_coordinators(look), *written_off(look))
    waits_s = [LOOK_AGAIN_S] if look.living else []
    waits_s += [due_s] if due_s is not None else []
    return Course(phase, reason, message, changes, actions=actions, requeue_s=min(waits_s, default=None))


def _reason(look: Look) -> str:
    kind = ConditionType.COMPLETE if look.status.phase is Phase.SUCCEEDED else ConditionType.FAILED
    return next((c.reason for c in look.status.conditions if c.type == kind), str(look.status.phase))


def _stop_all(look: Look) -> tuple[Action, ...]:
    return tuple(
        action for job in look.children.jobs if job.role == names.ROLE_WORKER for action in stop_actions(look, job)
    )


def _coordinators(look: Look) -> tuple[Delete, ...]:
    """The coordinator stays while workers end, so that they hear the verdict."""
    if look.living:
        return ()
    return coordinators_gone(look.children.of_role(names.ROLE_COORDINATOR), now_s=look.now_s)


def _seconds_to_cleanup(look: Look) -> float | None:
    ttl_s = look.spec.ttl_seconds_after_finished
    if ttl_s is None:
        return None
    ended = _ended(look.status.conditions)
    return None if ended is None else ended.last_transition_time.timestamp() + ttl_s - look.now_s


def _ended(conditions: tuple[Condition, ...]) -> Condition | None:
    kinds = (ConditionType.COMPLETE, ConditionType.FAILED)
    return next((c for c in conditions if c.type in kinds and c.status == "True"), None)


def _everything(look: Look) -> tuple[Delete, ...]:
    """Return the deletions of all children.

    The Secret is not seen, so it goes first, while there is something left to see that this has to be done.
    """
    found: list[Delete] = [Delete("Job", job.name, job.uid) for job in look.children.jobs if not job.is_deleted]
    found += coordinators_gone(look.children.of_role(names.ROLE_COORDINATOR), now_s=look.now_s)
    for kind, name in sorted(look.children.objects):
        if kind in ("Service", "ConfigMap", "NetworkPolicy"):
            found.append(Delete(kind, name))  # type: ignore[arg-type]  # one of the literals, by the line above
    return (Delete("Secret", names.token_name(look.resource.name)), *found) if found else ()
