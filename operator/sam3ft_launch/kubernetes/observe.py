"""A resource's status in the words that every backend has; pure."""

from datetime import datetime

from sam3ft_api.exit_codes import EXIT_RULES, ExitCode, rule_for
from sam3ft_api.status import AttemptStatus, Condition, ConditionType, Phase
from sam3ft_api.worker import Progress
from sam3ft_launch.backend import Observed, RunState
from sam3ft_launch.kubernetes.runs import ClusterRun

_STATES = {
    Phase.PENDING: RunState.PENDING,
    Phase.CHECKING: RunState.PENDING,
    Phase.QUEUED: RunState.PENDING,
    Phase.STARTING: RunState.PENDING,
    Phase.RUNNING: RunState.RUNNING,
    Phase.CHECKPOINTING: RunState.RUNNING,
    Phase.RESTARTING: RunState.RUNNING,
    Phase.SUSPENDED: RunState.INTERRUPTED,
    Phase.SUCCEEDED: RunState.SUCCEEDED,
    Phase.FAILED: RunState.FAILED,
}
_CODES = {rule.reason: code for code, rule in EXIT_RULES.items()}


def observed_of(run: ClusterRun, *, now: datetime) -> Observed:
    """Return what a run's status says, in the words of every backend.

    Args:
        run: as it was read.
        now: for the age of the last step.
    """
    progress = run.status.progress
    age_s = None
    if progress is not None and progress.last_step_time is not None:
        age_s = max(0.0, (now - progress.last_step_time).total_seconds())
    failure = last_attempt(run)
    return Observed(
        _STATES[run.phase],
        exit_code=exit_code_of(run),
        reason=_reason(run),
        message=run.message,
        node=failure.first_failure.node if failure and failure.first_failure else "",
        heartbeat_age_s=age_s,
        progress=progress_of(run),
        restarts=run.status.restarts,
    )


def progress_of(run: ClusterRun) -> Progress | None:
    """Return how far a run is; None before its first step is known. Its `state` is the resource's phase."""
    status = run.status
    if status.progress is None:
        return None
    best, checkpoint = status.best, status.checkpoint
    return Progress(
        state=run.phase.value,
        step=status.progress.step,
        total_steps=status.progress.total_steps,
        epoch=status.progress.epoch,
        eta_s=status.progress.eta_seconds,
        images_per_s=status.progress.images_per_second,
        loss=status.progress.loss,
        best_metric=best.metric if best else None,
        best_value=best.value if best else None,
        best_step=best.step if best else None,
        checkpoint_step=checkpoint.step if checkpoint else None,
        world_size=(status.workers.world if status.workers else 0) or 1,
    )


def exit_code_of(run: ClusterRun) -> int | None:
    """Return the exit code that the end of a run has, from the table of all backends; None while it goes on.

    A failure whose reason is of the operator's own (a spent budget, a deadline) has the code of its last attempt, and
    1 where that has none.
    """
    if run.phase is Phase.SUCCEEDED:
        return int(ExitCode.SUCCEEDED)
    if run.phase is Phase.SUSPENDED:
        return int(ExitCode.INTERRUPTED)
    if run.phase is not Phase.FAILED:
        return None
    if (code := _CODES.get(_reason(run))) is not None:
        return int(code)
    last = last_attempt(run)
    return (last.exit_code if last is not None else None) or int(ExitCode.INTERNAL_ERROR)


def advice_of(run: ClusterRun) -> str:
    """Return what the table of exit codes advises for the end of a run; empty while it goes on."""
    code = exit_code_of(run)
    return "" if code is None else rule_for(code).advice


def condition_of(run: ClusterRun, type_: ConditionType) -> Condition | None:
    """Return a condition; None as long as the operator has not written it."""
    return next((condition for condition in run.status.conditions if condition.type is type_), None)


def last_attempt(run: ClusterRun) -> AttemptStatus | None:
    """Return the newest attempt; None before the first."""
    return run.status.attempts[-1] if run.status.attempts else None


def _reason(run: ClusterRun) -> str:
    if run.phase is Phase.SUSPENDED:
        return str(run.phase)
    type_ = {Phase.FAILED: ConditionType.FAILED, Phase.SUCCEEDED: ConditionType.COMPLETE}.get(
        run.phase, ConditionType.RUNNING
    )
    condition = condition_of(run, type_)
    return condition.reason if condition is not None else str(run.phase)
