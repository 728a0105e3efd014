"""From one look to one decision: the policies in their order, and the status that they make together."""

from dataclasses import replace

from sam3ft_api.status import ConditionType, Phase, SAM3FineTuneStatus, SummaryStatus
from sam3ft_operator.decide.attempts import attempt_course
from sam3ft_operator.decide.conditions import conditions
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.ending import deadline_course, ended_course, retry_course
from sam3ft_operator.decide.figures import figures, summary
from sam3ft_operator.decide.goodput import goodput
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.preflight import check_course
from sam3ft_operator.decide.suspend import suspend_course
from sam3ft_operator.decide.words import cut
from sam3ft_operator.decision import Decision, Note
from sam3ft_operator.observed import Children, Resource

REFUSED = "InvalidSpec"


def decide(resource: Resource, children: Children, *, now_s: float) -> Decision:
    """Return what follows from one look; a function of its arguments alone.

    The same arguments with the returned status give the same status and no notes: a decision that was carried out, or
    whose actions were lost, is decided again and changes nothing twice.

    Args:
        resource: as it was read, with its status.
        children: as the watches show them, perhaps a moment old.
        now_s: seconds since the epoch, by the API server's clock.
    """
    if resource.is_deleted:
        return Decision(resource.status)
    if resource.spec is None:
        return _refusal(resource, now_s=now_s)
    look = Look(resource, children, now_s)
    return _decision(look, _course(look))


def is_worth_writing(old: SAM3FineTuneStatus, new: SAM3FineTuneStatus) -> bool:
    """Say whether a status has to be written at once: more than its running figures differ."""
    return _steady(old) != _steady(new)


def _steady(status: SAM3FineTuneStatus) -> SAM3FineTuneStatus:
    strings = status.summary.model_copy(update={"step": "", "eta": "", "loss": ""}) if status.summary else None
    return status.model_copy(update={"progress": None, "goodput": None, "summary": strings})


def _course(look: Look) -> Course:
    status = look.status
    was_refused = any(c.type is ConditionType.ACCEPTED and c.status == "False" for c in status.conditions)
    if status.phase is not None and status.phase.is_final and not was_refused:
        return retry_course(look) or ended_course(look)
    if look.spec.backend != "kubernetes":
        return Course(Phase.PENDING, "ForAnotherBackend", f"Waits for the agent of the {look.spec.backend} site.")
    return deadline_course(look) or suspend_course(look) or check_course(look) or attempt_course(look)


def _decision(look: Look, course: Course) -> Decision:
    status = look.status
    changes = dict(course.changes)
    changes |= {name: value for name, value in figures(look, course.phase).items() if name not in changes}
    attempts = changes.get("attempts", status.attempts)
    has_ended = look.attempt is not None and bool(attempts) and attempts[-1].finished is not None
    lost = (attempts[-1].lost_steps or 0) if has_ended else 0
    told = look.group.progress if look.group is not None else None
    speed = told.images_per_s if told is not None else None
    step_s = look.spec.training.global_batch_size / speed if speed else None
    changes["goodput"] = goodput(status, course.phase, lost_steps=lost, step_s=step_s, now_s=look.now_s)
    changes["phase"] = course.phase
    changes["observed_generation"] = look.resource.generation
    changes["summary"] = summary(look, course.phase, course.message, changes)
    changes["conditions"] = conditions(status.conditions, course, generation=look.resource.generation, now_s=look.now_s)
    return Decision(status.model_copy(update=changes), course.actions, course.notes, course.requeue_s)


def _refusal(resource: Resource, *, now_s: float) -> Decision:
    """The API server took a spec that cannot be run: `training.config`, or an address that no pod reaches."""
    status, message = resource.status, cut(resource.refusal, 1024)
    claim = Claim(ConditionType.ACCEPTED, "False", REFUSED, message)
    course = Course(Phase.FAILED, REFUSED, message, claims=(claim,))
    known = status.summary.message if status.summary is not None else None
    notes = (Note("Warning", REFUSED, message),) if known != message else ()
    strings = (status.summary or SummaryStatus()).model_copy(update={"message": message})
    updated = status.model_copy(
        update={
            "phase": Phase.FAILED,
            "observed_generation": resource.generation,
            "summary": strings,
            "conditions": conditions(status.conditions, course, generation=resource.generation, now_s=now_s),
        }
    )
    return replace(Decision(updated), notes=notes)
