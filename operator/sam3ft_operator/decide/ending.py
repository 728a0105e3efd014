"""A run that has ended: nothing of it may go on, its children go when their time has come, `retry` begins anew."""

from sam3ft_api import names
from sam3ft_api.status import BudgetStatus, Condition, ConditionType, Phase
from sam3ft_operator.decide.attempts import failed
from sam3ft_operator.decide.course import Course
from sam3ft_operator.decide.ledger import counted, ends_of
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.suspend import stop_actions
from sam3ft_operator.decide.words import span
from sam3ft_operator.decision import Action, Delete, Note

DEADLINE = "DeadlineExceeded"


def retry_course(look: Look) -> Course | None:
    """Return the beginning of another try when `retry` was raised on a Failed run; None otherwise."""
    if look.status.phase is not Phase.FAILED or look.spec.retry <= look.status.retried:
        return None
    message = f"Try {look.spec.retry + 1} goes on from the newest commit."
    checks = look.children.preflight_job()
    is_ready = look.holds(ConditionType.DATASET_READY)
    stale = () if is_ready or checks is None else (Delete("Job", checks.name, checks.uid),)
    changes = {"retried": look.spec.retry, "budget": BudgetStatus(), "restarts": 0}
    note = Note("Normal", "Retrying", message)
    return Course(Phase.PENDING, "Retrying", message, changes=changes, actions=stale, notes=(note,), requeue_s=0.0)


def deadline_course(look: Look) -> Course | None:
    """Return the end of a run that is older than `activeDeadlineSeconds`; None while it is not.

    Counted from the first start by the clock on the wall, so also while suspended: what the deadline bounds is when the
    run is over, not how long it trains (`training.maxDuration` bounds that).
    """
    limit_s, attempts = look.spec.active_deadline_seconds, look.status.attempts
    if limit_s is None or not attempts or attempts[0].started is None:
        return None
    begun = look.status.started or attempts[0].started
    if look.now_s - begun.timestamp() < limit_s:
        return None
    message = f"activeDeadlineSeconds: {span(limit_s)} have passed since the first start; workers are asked to save."
    if look.attempt is None:
        return Course(Phase.FAILED, DEADLINE, message, notes=(Note("Warning", DEADLINE, message),), requeue_s=0.0)
    changes = counted(look, ends_of(look.workers))
    return failed(look, changes, reason=DEADLINE, message=message, end=None)


def ended_course(look: Look) -> Course:
    """Return what a finished run asks for: its workers stopped, its coordinator gone, its children deleted in time."""
    phase = look.status.phase or Phase.FAILED
    summary = look.status.summary
    message = summary.message if summary is not None else ""
    reason = _reason(look)
    due_s = _seconds_to_cleanup(look)
    if due_s is not None and due_s <= 0:
        return Course(phase, reason, message, actions=_everything(look))
    return Course(phase, reason, message, actions=(*_stop_all(look), *_coordinators(look)), requeue_s=due_s)


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
    pods = look.children.of_role(names.ROLE_COORDINATOR)
    return tuple(Delete("Pod", pod.name, pod.uid) for pod in pods if pod.deletion_s is None)


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
    """Return the deletions of all children; the Secret is not seen, and goes when something that is seen goes."""
    found: list[Delete] = [Delete("Job", job.name, job.uid) for job in look.children.jobs if not job.is_deleted]
    pods = look.children.of_role(names.ROLE_COORDINATOR)
    found += [Delete("Pod", pod.name, pod.uid) for pod in pods if pod.deletion_s is None]
    for kind, name in sorted(look.children.objects):
        if kind in ("Service", "ConfigMap", "NetworkPolicy"):
            found.append(Delete(kind, name))  # type: ignore[arg-type]  # one of the literals, by the line above
    if found:
        found.append(Delete("Secret", names.token_name(look.resource.name)))
    return tuple(found)
