"""From one look to one decision: the policies in their order, and the status that they make together."""

from dataclasses import replace

from sam3ft_api.status import ConditionType, Phase, SAM3FineTuneStatus, SummaryStatus
from sam3ft_operator.decide.attempts import attempt_course
from sam3ft_operator.decide.conditions import claimed, condition_of, conditions
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.ending import deadline_course, ended_course, retry_course, seconds_to_deadline
from sam3ft_operator.decide.figures import figures, summary
from sam3ft_operator.decide.goodput import goodput
from sam3ft_operator.decide.ledger import recovered
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.news import news
from sam3ft_operator.decide.preflight import check_course
from sam3ft_operator.decide.slurm import release, slurm_course
from sam3ft_operator.decide.slurm_standing import group_of, told_of
from sam3ft_operator.decide.suspend import suspend_course
from sam3ft_operator.decide.words import cut
from sam3ft_operator.decision import Decision, Note
from sam3ft_operator.observed import Children, Resource

REFUSED = "InvalidSpec"
MOST_TURNS = 8
"""Changes of state that one look can lead through: an attempt is closed, the next one opened, and so on."""


def decide(resource: Resource, children: Children, *, now_s: float) -> Decision:
    """Return what follows from one look; a function of its arguments alone.

    The same arguments with the returned status give the same status and no notes: a decision that was carried out, or
    whose actions were lost, is decided again and changes nothing twice.

    Args:
        resource: as it was read, with its status.
        children: as the watches show them, perhaps a moment old.
        now_s: seconds since the epoch, by the API server's clock.
    """
    notes: tuple[Note, ...] = ()
    for _ in range(MOST_TURNS):
        decision = _decide_once(resource, children, now_s=now_s)
        notes += decision.notes
        if decision.requeue_s != 0.0:
            break
        # The status is written before the actions, so what follows from it may follow at once.
        resource = replace(resource, status=decision.status)
    return replace(decision, notes=notes)


def is_worth_writing(old: SAM3FineTuneStatus, new: SAM3FineTuneStatus) -> bool:
    """Say whether a status has to be written at once: more than its running figures differ."""
    return _steady(old) != _steady(new)


def differs_in_counts_alone(old: SAM3FineTuneStatus, new: SAM3FineTuneStatus) -> bool:
    """Say whether only counts and words differ, as how many pods have a node: nothing that a program waits for."""
    return _without_counts(old) == _without_counts(new)


def _without_counts(status: SAM3FineTuneStatus) -> SAM3FineTuneStatus:
    silent = tuple(condition.model_copy(update={"message": ""}) for condition in status.conditions)
    counted = {"progress": None, "goodput": None, "summary": None, "workers": None, "replicas": 0}
    return status.model_copy(update={"conditions": silent, **counted})


def _steady(status: SAM3FineTuneStatus) -> SAM3FineTuneStatus:
    strings = status.summary.model_copy(update={"step": "", "eta": "", "loss": ""}) if status.summary else None
    return status.model_copy(update={"progress": None, "goodput": None, "summary": strings})


def _decide_once(resource: Resource, children: Children, *, now_s: float) -> Decision:
    if resource.is_deleted:
        return release(resource, now_s=now_s)
    if resource.spec is None:
        return _refusal(resource, now_s=now_s)
    look = Look(resource, children, now_s)
    if look.spec.backend == "slurm":
        look = replace(look, children=replace(children, group=group_of(told_of(look), now_s=now_s)))
    return _decision(look, _course(look))


def _course(look: Look) -> Course:
    if _has_ended(look.status):
        return retry_course(look) or ended_course(look)
    course = slurm_course(look) if look.spec.backend == "slurm" else _on_kubernetes(look)
    left_s = seconds_to_deadline(look)
    if course.requeue_s is not None and left_s is not None and left_s > 0:
        return replace(course, requeue_s=min(course.requeue_s, left_s))
    return course if left_s is None or left_s <= 0 else replace(course, requeue_s=left_s)


def _on_kubernetes(look: Look) -> Course:
    return deadline_course(look) or suspend_course(look) or check_course(look) or attempt_course(look)


def _has_ended(status: SAM3FineTuneStatus) -> bool:
    """Say whether a run is over; a spec that was refused and has been mended since ends nothing."""
    if status.phase is None or not status.phase.is_final:
        return False
    return not any(c.type is ConditionType.FAILED and c.reason == REFUSED for c in status.conditions)


def _decision(look: Look, course: Course) -> Decision:
    status = look.status
    changes = dict(course.changes)
    changes |= {name: value for name, value in figures(look, course.phase).items() if name not in changes}
    changes["attempts"] = attempts = recovered(look, changes.get("attempts", status.attempts))
    if not _has_ended(status):
        changes["retried"] = look.spec.retry  # raised before there was anything to try again
    has_ended = look.attempt is not None and bool(attempts) and attempts[-1].finished is not None
    lost = (attempts[-1].lost_steps or 0) if has_ended else 0
    told = look.group.progress if look.group is not None else None
    speed = told.images_per_s if told is not None else None
    step_s = look.spec.training.global_batch_size / speed if speed and speed > 0 else None
    changes["goodput"] = goodput(status, course.phase, lost_steps=lost, step_s=step_s, now_s=look.now_s)
    changes["phase"] = course.phase
    changes["observed_generation"] = look.resource.generation
    changes["summary"] = summary(look, course.phase, course.message, changes)
    changes["conditions"] = conditions(status.conditions, course, generation=look.resource.generation, now_s=look.now_s)
    updated = status.model_copy(update=changes)
    said = {(note.type, note.reason) for note in course.notes}  # by what decided, with what it knows
    more = (note for note in news(status, updated) if (note.type, note.reason) not in said)
    return Decision(updated, course.actions, (*course.notes, *more), course.requeue_s)


def _refusal(resource: Resource, *, now_s: float) -> Decision:
    """The API server took a spec that cannot be run: `training.config`, or an address that no pod reaches."""
    status, message = resource.status, cut(resource.refusal, 1024)
    claim = Claim(ConditionType.ACCEPTED, "False", REFUSED, message)
    known = condition_of(status, ConditionType.ACCEPTED)
    is_new = known is None or known.status != "False" or known.message != message
    notes = (Note("Warning", REFUSED, message),) if is_new else ()
    generation = resource.generation
    if _has_ended(status):
        # What has ended stays as it ended.
        kept = claimed(status.conditions, (claim,), generation=generation, now_s=now_s)
        return Decision(status.model_copy(update={"conditions": kept, "observed_generation": generation}), notes=notes)
    course = Course(Phase.FAILED, REFUSED, message, claims=(claim,))
    changes = {
        "phase": Phase.FAILED,
        "observed_generation": generation,
        "summary": (status.summary or SummaryStatus()).model_copy(update={"message": message}),
        "conditions": conditions(status.conditions, course, generation=generation, now_s=now_s),
    }
    return Decision(status.model_copy(update=changes), notes=notes)
