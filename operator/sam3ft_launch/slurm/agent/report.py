"""What the agent tells of an attempt: `status.slurm`, from what its backend has seen; pure."""

import math
from datetime import datetime

from sam3ft_api import limits
from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.redact import redact
from sam3ft_api.status import BestStatus, DatasetStatus, SlurmStatus, moment, progress_status
from sam3ft_api.text import without_controls
from sam3ft_api.worker import Progress, step_or_none
from sam3ft_launch.backend import Observed, RunState
from sam3ft_launch.slurm.states import JobView

FIGURES_EVERY_S = 30.0
"""A report of which only progress differs is sent this often: each is a write of the operator's as well."""
MAX_MESSAGE_CHARS = 1024
_LAST_S = 253_402_300_799.0
"""The end of the year 9999, beyond which there are no dates."""


def seen(told: SlurmStatus, observed: Observed, job: JobView | None, *, nodes: int) -> SlurmStatus:
    """Return the report of an attempt that has been handed in.

    Args:
        told: site, attempt, folder, job name and number, and what the check has found.
        observed: what the backend has seen.
        job: what the scheduler says; None when it knows the job no more.
        nodes: of the job.
    """
    is_running = observed.state is RunState.RUNNING
    ended = observed.exit_code if observed.state.is_terminal else None
    message = text(observed.message, MAX_MESSAGE_CHARS)
    return told.model_copy(
        update={
            "state": job.word if job is not None else told.state,
            "reason": text(job.reason, 128) if job is not None else "",
            "exit_code": ended,
            "ending": text(observed.reason, 64) if ended is not None else "",
            "node": text(observed.node or (job.nodes if job is not None else ""), 253),
            "nodes": nodes if is_running else 0,
            "restarts": observed.restarts,
            "message": message,
            "missing": message if is_running else "",  # a run that trains has nothing else to say
            **figures(observed.progress),
        }
    )


def over_without_job(
    told: SlurmStatus, code: int, message: str, *, dataset: DatasetStatus | None = None
) -> SlurmStatus:
    """Return the report of an attempt that was over before it had a job."""
    return told.model_copy(
        update={
            "exit_code": code,
            "ending": rule_for(code).reason,
            "message": text(message, MAX_MESSAGE_CHARS),
            "dataset": dataset,
        }
    )


def lost(told: SlurmStatus, observed: Observed) -> SlurmStatus:
    """Return the report of an attempt whose job is nowhere to be found, and has left no word."""
    code = int(ExitCode.TERMINATED if told.job_id else ExitCode.INTERRUPTED)
    message = text(observed.message, MAX_MESSAGE_CHARS)
    return told.model_copy(update={"exit_code": code, "ending": "JobLost", "message": message})


def figures(progress: Progress | None) -> dict[str, object]:
    """Return the fields that tell how far the attempt is; the trainer's numbers, held to what a status may hold."""
    if progress is None:
        return {}
    found: dict[str, object] = {"commit_step": step_or_none(progress.checkpoint_step)}
    if step_or_none(progress.total_steps):  # a rank that is only loading has planned no steps
        found["progress"] = progress_status(progress, last_step_time=_time(progress.last_step_unix_s))
    best_step = step_or_none(progress.best_step)
    if progress.best_metric and progress.best_value is not None and best_step is not None:
        found["best"] = BestStatus(
            metric=text(progress.best_metric, limits.MAX_METRIC_NAME_CHARS), value=progress.best_value, step=best_step
        )
    return found


def is_worth_sending(before: SlurmStatus | None, after: SlurmStatus, *, since_s: float) -> bool:
    """Tell whether a report has to be sent.

    Args:
        before: the report that was sent last.
        after: the present one.
        since_s: seconds since the last one was sent.
    """
    if before is None:
        return True
    untimed = {"time": None}
    if before.model_copy(update=untimed) == after.model_copy(update=untimed):
        return False
    figures_of = {**untimed, "progress": None}
    is_steady = before.model_copy(update=figures_of) == after.model_copy(update=figures_of)
    return not is_steady or since_s >= FIGURES_EVERY_S


def text(value: str, max_chars: int) -> str:
    """Return text for people: redacted, without control characters, at most so long."""
    safe = redact(without_controls(value[: 2 * max_chars], instead=" ")).strip()
    return safe if len(safe) <= max_chars else safe[: max_chars - 1] + "…"


def _time(seconds: float | None) -> datetime | None:
    if seconds is None or not math.isfinite(seconds) or not 0 < seconds < _LAST_S:
        return None
    return moment(seconds)
