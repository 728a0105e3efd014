"""Why a run is not running, in one line, and what mends it; pure."""

from collections.abc import Callable
from datetime import datetime

from sam3ft_api.status import Condition, ConditionType, Phase
from sam3ft_launch.explanation import Explanation
from sam3ft_launch.kubernetes.observe import advice_of, condition_of, exit_code_of
from sam3ft_launch.kubernetes.runs import ClusterRun

PATIENCE_S = 30.0
"""An operator that works has looked at a new or changed resource by then."""


def explain(run: ClusterRun, *, now: datetime) -> Explanation:
    """Return why a run is where it is.

    Args:
        run: as it was read just now.
        now: by the clock of this machine; only long silences are judged by it.
    """
    state = run.phase.value
    if run.deleted is not None:
        return Explanation("being deleted", f"since {_moment(run.deleted)}; its pods save and end")
    if (unseen := _unseen(run, now)) is not None:
        return unseen
    accepted = condition_of(run, ConditionType.ACCEPTED)
    if accepted is not None and accepted.status == "False" and run.phase is not Phase.FAILED:
        return Explanation(state, accepted.message, "correct the spec")
    trouble = condition_of(run, ConditionType.DEGRADED)
    if run.phase not in _STILL and trouble is not None and trouble.status == "True":
        return _troubled(run, trouble)
    return _STILL.get(run.phase, _at_work)(run)


def _succeeded(run: ClusterRun) -> Explanation:
    where = run.status.export.uri if run.status.export else ""
    return Explanation(run.phase.value, f"the model is in {where}" if where else run.message)


def _failed(run: ClusterRun) -> Explanation:
    return Explanation(run.phase.value, _failure(run), _mend(run))


def _suspended(run: ClusterRun) -> Explanation:
    todo = f"sam3ft resume {run.name}" if run.is_suspended else ""
    return Explanation(run.phase.value, run.message, todo)


def _unseen(run: ClusterRun, now: datetime) -> Explanation | None:
    """Return the explanation of a resource that no operator has looked at since it was made or changed."""
    age_s = (now - run.created).total_seconds()
    if run.status.phase is None:
        if age_s < PATIENCE_S:
            return Explanation("new", "the operator has not looked at it yet")
        return Explanation(
            "not looked after",
            f"no operator has looked at it since it was made, {age_s:.0f} s ago",
            _operator(run),
        )
    if run.phase in _STILL and run.status.observed_generation < run.generation:
        return Explanation(
            run.phase.value, "its newest change waits for the operator", f"if it stays so, {_operator(run)}"
        )
    return None


def _operator(run: ClusterRun) -> str:
    return f"see whether the operator runs and looks after namespace {run.namespace}"


def _failure(run: ClusterRun) -> str:
    condition = condition_of(run, ConditionType.FAILED)
    reason = condition.reason if condition is not None else ""
    return f"{reason}: {run.message}" if reason and reason not in run.message else run.message


def _mend(run: ClusterRun) -> str:
    code, advice = exit_code_of(run), advice_of(run)
    said = "" if advice and advice in run.message else advice
    again = f"then sam3ft retry {run.name}" if said else f"mend it, then sam3ft retry {run.name}"
    return f"{said.rstrip('. ')}, {again} (code {code})" if said else f"{again} (code {code})"


def _queued(run: ClusterRun) -> Explanation:
    scheduled = condition_of(run, ConditionType.SCHEDULED)
    why, todo = _why_and_todo((scheduled.message if scheduled is not None else "") or run.message)
    look = f"kubectl -n {run.namespace} describe workloads tells its place"
    return Explanation(run.phase.value, why, f"{todo.rstrip('. ')}; {look}" if todo else look)


def _troubled(run: ClusterRun, trouble: Condition) -> Explanation:
    why, todo = _why_and_todo(trouble.message)
    return Explanation(run.phase.value, f"{trouble.reason}: {why}", todo)


def _why_and_todo(message: str) -> tuple[str, str]:
    """The operator's sentence about what is waited for ends with what to do, behind a semicolon."""
    why, _, todo = message.rpartition("; ")
    return (why, todo) if why else (message, "")


def _at_work(run: ClusterRun) -> Explanation:
    summary = run.status.summary
    parts = [run.message.rstrip(". ")] if run.message else []
    if summary is not None and summary.step:
        parts.append(f"step {summary.step}" + (f", ETA {summary.eta}" if summary.eta else ""))
    if run.status.observed_generation < run.generation:
        parts.append("the operator has not acted on the newest change of the spec yet")
    return Explanation(run.phase.value, "; ".join(parts))


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


_STILL: dict[Phase, Callable[[ClusterRun], Explanation]] = {
    Phase.SUCCEEDED: _succeeded,
    Phase.FAILED: _failed,
    Phase.SUSPENDED: _suspended,
    Phase.QUEUED: _queued,
}
"""Phases in which no pod is at work, so that nothing else is wrong with it."""
