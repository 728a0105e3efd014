"""A run on a SLURM site: its agent tells in `status.slurm` what the job does, and everything else follows from that.

The operator opens attempts, the agent submits the one that is open, and the attempt is over when the agent says with
which code. In between the job looks after itself: it begins its workers again, goes back into the queue, and keeps to
the failure policy. The operator's finalizer keeps a deleted resource until its job has ended, or for `RELEASE_S`.
"""

from dataclasses import replace
from typing import Any

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.status import (
    BudgetStatus,
    ConditionType,
    FirstFailure,
    Phase,
    SAM3FineTuneStatus,
    SlurmStatus,
    SummaryStatus,
)
from sam3ft_launch.slurm.states import JobState
from sam3ft_operator.decide import ledger
from sam3ft_operator.decide.attempts import failed, pause_left_s, pause_s, succeeded
from sam3ft_operator.decide.budget import add_ends, exhaustion
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.ending import DEADLINE, deadline_message, seconds_to_deadline
from sam3ft_operator.decide.ends import PodEnd, Weight
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.slurm_standing import standing, told_of
from sam3ft_operator.decide.suspend import GIVEN_BACK, SUSPENDED
from sam3ft_operator.decide.words import cut, shell_code, span
from sam3ft_operator.decision import Decision, Hold, Note
from sam3ft_operator.observed import Resource

RELEASE_S = 600.0
"""How long a deleted resource waits for its agent to end the job; an agent that comes back later ends it then."""
LOOK_AGAIN_S = 15.0


def slurm_course(look: Look) -> Course:
    """Return what follows for a run of a SLURM site that has not ended."""
    if not look.resource.is_held:
        # Before an attempt is opened, so before there can be a job: no deletion overtakes it.
        return Course(Phase.PENDING, "Accepted", "The run is accepted.", actions=(Hold(),), requeue_s=LOOK_AGAIN_S)
    if look.attempt is None:
        return _between(look)
    told = told_of(look)
    if told is not None and told.exit_code is not None:
        return _ended(look, told, told.exit_code)
    return replace(standing(look, told, is_stopping=_is_stopping(look)), requeue_s=LOOK_AGAIN_S)


def release(resource: Resource, *, now_s: float) -> Decision:
    """Return what follows for a deleted resource: it is let go when its job has ended, or its time is over."""
    status = resource.status
    if not resource.is_held:
        return Decision(status)
    if not _may_have_job(status):
        return Decision(status, actions=(Hold(is_held=False),), requeue_s=LOOK_AGAIN_S)
    site = _site(resource)
    left_s = (resource.deleted_s or now_s) + RELEASE_S - now_s
    if left_s <= 0:
        message = (
            f"The agent of site {site} has not ended the job within {span(RELEASE_S)}; the resource goes, and the "
            "agent ends the job when it comes back."
        )
        return Decision(status, (Hold(is_held=False),), (Note("Warning", "AgentSilent", message),), LOOK_AGAIN_S)
    waiting = f"Is deleted once the agent of site {site} has ended the job, in {span(RELEASE_S)} at the latest."
    return Decision(_saying(status, waiting), requeue_s=min(LOOK_AGAIN_S, left_s))


def _may_have_job(status: SAM3FineTuneStatus) -> bool:
    """Tell whether a job may be there: an agent tells its intent before it submits, and the end when it is over."""
    told, newest = status.slurm, status.attempts[-1] if status.attempts else None
    if told is None or newest is None or newest.finished is not None or told.attempt != newest.n:
        return False
    return bool(told.intent or told.job_id) and told.exit_code is None


def _saying(status: SAM3FineTuneStatus, message: str) -> SAM3FineTuneStatus:
    summary = (status.summary or SummaryStatus()).model_copy(update={"message": message})
    return status.model_copy(update={"summary": summary})


def _site(resource: Resource) -> str:
    return resource.spec.slurm.site if resource.spec is not None and resource.spec.slurm is not None else "?"


def _is_stopping(look: Look) -> bool:
    return look.spec.suspend or _is_past_deadline(look)


def _is_past_deadline(look: Look) -> bool:
    left_s = seconds_to_deadline(look)
    return left_s is not None and left_s <= 0


def _between(look: Look) -> Course:
    """No attempt is open, so there is no job: wait for the wish to go on, then open the next attempt."""
    if _is_past_deadline(look):
        message = deadline_message(look)
        return Course(Phase.FAILED, DEADLINE, message, notes=(Note("Warning", DEADLINE, message),), requeue_s=0.0)
    if look.spec.suspend:
        return Course(Phase.SUSPENDED, SUSPENDED, GIVEN_BACK)
    phase = Phase.PENDING if look.newest is None else Phase.RESTARTING
    left_s = pause_left_s(look)
    if left_s > 0:
        stuck = (look.status.budget or BudgetStatus()).without_progress
        return Course(
            phase,
            "BackOff",
            f"The next attempt begins after a pause of {span(pause_s(stuck))}.",
            requeue_s=left_s,
        )
    changes = ledger.opened(look)
    message = f"Attempt {changes['attempts'][-1].n} is for the agent of site {_site(look.resource)}."
    was_paused = look.newest is not None and look.newest.reason == SUSPENDED
    notes = [Note("Normal", "Resumed" if was_paused else "Starting", message)]
    storage = look.spec.storage
    if look.newest is None and (storage.secret_ref or storage.data_secret_ref):
        text = "storage.secretRef and storage.dataSecretRef are not used on SLURM: the site keeps its own credentials."
        notes.append(Note("Warning", "SecretNotUsed", text))
    return Course(phase, "Starting", message, changes=changes, notes=tuple(notes), requeue_s=0.0)


def _ended(look: Look, told: SlurmStatus, code: int) -> Course:
    """The attempt is over: what its code says, in the light of what was asked for."""
    end = _end(look, told, code)
    if code == ExitCode.SUCCEEDED:
        return succeeded(look, {})
    if end.weight is Weight.VERDICT:
        return replace(
            failed(look, {}, reason=end.reason, message=end.message, end=end),
            claims=_refused_data(end) if code == ExitCode.INVALID_DATASET else (),
        )
    if _is_past_deadline(look):
        return failed(look, {}, reason=DEADLINE, message=deadline_message(look), end=None)
    if look.spec.suspend:
        changes = ledger.closed(look, {}, reason=SUSPENDED, code=code)
        note = Note("Normal", SUSPENDED, GIVEN_BACK)
        return Course(Phase.SUSPENDED, SUSPENDED, GIVEN_BACK, changes, notes=(note,), requeue_s=0.0)
    if end.weight is Weight.COUNTED or _was_cancelled(told):
        return failed(look, {}, reason=end.reason, message=end.message, end=end)
    return _again(look, end)


def _refused_data(end: PodEnd) -> tuple[Claim, ...]:
    return (Claim(ConditionType.DATASET_READY, "False", end.reason, end.message),)


def _again(look: Look, end: PodEnd) -> Course:
    """SLURM has ended the job, and the site does not put such jobs back: a fresh one goes on from the newest commit."""
    changes: dict[str, Any] = ledger.closed(look, {}, reason=end.reason, end=end)
    budget = add_ends(look.status.budget or BudgetStatus(), count=1, commit_step=end.commit_step)
    changes["budget"] = budget
    if spent := exhaustion(budget, look.spec.failure_policy, now_s=look.now_s):
        text = cut(f"{spent} {end.message}", 1024)
        course = failed(look, changes, reason="BudgetSpent", message=text, end=end)
        return replace(course, changes={**course.changes, "budget": budget})
    message = cut(f"{end.message.rstrip('.')}; a fresh attempt goes on from the newest commit.", 1024)
    note = Note("Warning", end.reason, message)
    return Course(Phase.RESTARTING, end.reason, message, changes=changes, notes=(note,), requeue_s=0.0)


def _was_cancelled(told: SlurmStatus) -> bool:
    """Tell whether somebody has cancelled the job who did not ask the run to stop: that would be Interrupted."""
    return told.ending == JobState.CANCELLED


def _end(look: Look, told: SlurmStatus, code: int) -> PodEnd:
    """Return the attempt's end in the form in which those of pods are kept."""
    shell = shell_code(code)
    rule = rule_for(shell)
    reason = cut(told.ending, 64) or rule.reason
    said = cut(told.message, 900)
    if _was_cancelled(told) and not rule.is_verdict:
        reason = "JobCancelled"
        said = f"{said.rstrip('.')}; raise spec.retry to go on." if said else "Raise spec.retry to go on."
    elif rule.advice not in said:
        said = f"{said} {rule.advice}" if said else rule.advice
    # The job itself has tried a counted end again as often as the failure policy allows.
    weight = Weight.VERDICT if rule.is_verdict else Weight.COUNTED if rule.counts else Weight.FREE
    return PodEnd(
        code=shell,
        reason=reason,
        message=cut(said, 1024),
        weight=weight,
        at_s=look.now_s,
        failure=FirstFailure(node=cut(told.node, 253), message=cut(said, 4096)),
        step=told.progress.step if told.progress is not None else None,
        commit_step=told.commit_step,
    )
