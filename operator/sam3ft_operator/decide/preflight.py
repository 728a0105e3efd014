"""The check of the data set: one Job on the CPU before anything else, made again after ends that are no verdict."""

from dataclasses import replace

from sam3ft_api import names
from sam3ft_api.exit_codes import rule_for
from sam3ft_api.status import BudgetStatus, ConditionType, DatasetStatus, Phase, moment
from sam3ft_operator.decide.attempts import pause_s
from sam3ft_operator.decide.budget import add_counted, counted_within, exhaustion
from sam3ft_operator.decide.conditions import condition_of
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.ends import PodEnd, Weight, end_of, end_of_job
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.mend import written_off
from sam3ft_operator.decide.trouble import start_trouble
from sam3ft_operator.decide.words import account_of, cut
from sam3ft_operator.decision import Action, Delete, Ensure, Note, Part
from sam3ft_operator.observed import JobView, PodView

LOOK_AGAIN_S = 30.0
CLOCKS_S = 5.0
"""Seconds by which the clock of a look and the time of an object may differ."""


def check_course(look: Look) -> Course | None:
    """Return what the check asks for; None once the data set is known to be ready."""
    if look.holds(ConditionType.DATASET_READY):
        return None
    job = look.children.preflight_job()
    if job is not None and not job.is_deleted and _is_older(look, job):
        return _checking(actions=(Delete("Job", job.name, job.uid),))
    course = _checking() if job is None or job.is_deleted else _of_job(look, job)
    if course.phase is not Phase.CHECKING or course.actions:
        return course
    run = look.resource.name
    made = {
        ("ConfigMap", names.config_name(run)),
        ("NetworkPolicy", names.policy_name(run, names.ROLE_PREFLIGHT)),
    }
    ensured = (Ensure(Part.PREFLIGHT),) if job is None or not made <= look.children.objects else ()
    actions = (*(() if job is not None and job.is_deleted else ensured), *written_off(look))
    return replace(course, actions=actions)


def _checking(actions: tuple[Action, ...] = ()) -> Course:
    message = "The data set is checked before any accelerator is taken."
    claim = Claim(ConditionType.DATASET_READY, "Unknown", "Checking", message)
    return Course(Phase.CHECKING, "Checking", message, claims=(claim,), actions=actions, requeue_s=LOOK_AGAIN_S)


def _is_older(look: Look, job: JobView) -> bool:
    """Say whether a Job is of the check before `retry`: since then the data set counts as unknown again."""
    known = condition_of(look.status, ConditionType.DATASET_READY)
    return known is not None and job.created_s < known.last_transition_time.timestamp() - CLOCKS_S


def _of_job(look: Look, job: JobView) -> Course:
    # Pods of a Job that was deleted may outlive it for a while.
    pods = tuple(pod for pod in look.children.of_role(names.ROLE_PREFLIGHT) if pod.created_s >= job.created_s)
    if job.is_complete or any(pod.phase == "Succeeded" for pod in pods):
        return _passed(pods)
    end = _verdict(job, pods)
    if end is not None:
        return refused(end)
    if job.failure_reason:
        return _again(look, job, pods)
    trouble = start_trouble(look, (job,), pods)
    waiting = _checking()
    if trouble is None:
        return waiting
    return replace(trouble.course(Phase.CHECKING), claims=(*waiting.claims, *trouble.claims()))


def refused(end: PodEnd) -> Course:
    """Return the end of a run whose check came to a verdict."""
    return Course(
        Phase.FAILED,
        end.reason,
        end.message,
        claims=(Claim(ConditionType.DATASET_READY, "False", end.reason, end.message),),
        notes=(Note("Warning", end.reason, end.message),),
    )


def _passed(pods: tuple[PodView, ...]) -> Course:
    word = next((pod.termination for pod in pods if pod.phase == "Succeeded" and pod.termination is not None), None)
    dataset = word.dataset if word is not None and word.dataset is not None else DatasetStatus()
    message = (
        account_of(dataset) if word is not None and word.dataset is not None else "the check passed and left no figures"
    )
    return Course(
        Phase.STARTING,
        "Checked",
        f"The data set is ready: {message}.",
        changes={"dataset": dataset},
        claims=(Claim(ConditionType.DATASET_READY, "True", "Checked", message),),
        notes=(Note("Normal", "DatasetReady", message),),
        requeue_s=0.0,
    )


def _verdict(job: JobView, pods: tuple[PodView, ...]) -> PodEnd | None:
    ends = [end for pod in pods if (end := end_of(pod)) is not None and end.weight is Weight.VERDICT]
    # A check has no restarts of its own: only the codes that are verdicts by the table end the run.
    known = next((end for end in ends if rule_for(end.code).is_verdict), None)
    at_s = job.finished_s if job.finished_s is not None else job.created_s
    return known or end_of_job(job.failure_reason, job.failure_message, at_s=at_s)


def _again(look: Look, job: JobView, pods: tuple[PodView, ...]) -> Course:
    """The check ended for no reason that is the user's: count it once, and make it again while the budget lasts."""
    at_s = job.finished_s if job.finished_s is not None else job.created_s
    budget = look.status.budget or BudgetStatus()
    is_new = all(entry.time < moment(at_s) for entry in budget.counted)
    if is_new:
        budget = add_counted(budget, count=1, at_s=at_s, window_s=look.spec.failure_policy.window_seconds)
    spent = exhaustion(budget, look.spec.failure_policy, now_s=look.now_s)
    last = next((end.message for pod in reversed(pods) if (end := end_of(pod)) is not None), job.failure_message)
    if spent:
        message = cut(f"The check of the data set failed: {spent} {last}", 1024)
        return Course(
            Phase.FAILED,
            "BudgetSpent",
            message,
            changes={"budget": budget},
            notes=(Note("Warning", "BudgetSpent", message),),
        )
    message = cut(f"The check of the data set ended without an answer and is made again: {last}", 1024)
    pause = at_s + pause_s(counted_within(budget, window_s=look.spec.failure_policy.window_seconds, now_s=look.now_s))
    is_over = pause <= look.now_s
    return Course(
        Phase.CHECKING,
        "CheckFailed",
        message,
        changes={"budget": budget, "restarts": look.status.restarts + is_new},
        claims=_checking().claims,
        actions=(Delete("Job", job.name, job.uid),) if is_over else (),
        notes=(Note("Warning", "CheckFailed", message),) if is_new else (),
        requeue_s=LOOK_AGAIN_S if is_over else pause - look.now_s,
    )
