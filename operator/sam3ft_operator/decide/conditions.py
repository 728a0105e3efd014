"""Conditions from phase and claims; a condition's time changes only with its status, so that nothing flaps."""

from sam3ft_api.status import Condition, ConditionType, Phase, SAM3FineTuneStatus, moment
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.words import cut

_ENDED = (Phase.SUCCEEDED, Phase.FAILED)


def condition_of(status: SAM3FineTuneStatus, type_: ConditionType) -> Condition | None:
    """Return a condition of a status; None where it was never written."""
    return next((condition for condition in status.conditions if condition.type is type_), None)


def conditions(
    before: tuple[Condition, ...], course: Course, *, generation: int, now_s: float
) -> tuple[Condition, ...]:
    """Return all conditions after one look: what the course claims, what its phase means, and what was known.

    Ready and Stalled are for kstatus: Ready is true for a run that is complete, Stalled for one that needs its user.
    """
    return claimed(before, (*_implied(course), *course.claims), generation=generation, now_s=now_s)


def claimed(
    before: tuple[Condition, ...], claims: tuple[Claim, ...], *, generation: int, now_s: float
) -> tuple[Condition, ...]:
    """Return the conditions with these claims in them, the later of two about one thing."""
    kept = {condition.type: condition for condition in before}
    for type_, claim in {claim.type: claim for claim in claims}.items():
        kept[type_] = _merged(kept.get(type_), claim, generation=generation, now_s=now_s)
    return tuple(kept[type_] for type_ in ConditionType if type_ in kept)


def _implied(course: Course) -> list[Claim]:
    phase, reason, message = course.phase, course.reason, course.message
    runs = phase is Phase.RUNNING
    has_nodes = phase in (Phase.RUNNING, Phase.CHECKPOINTING)
    found = [
        Claim(ConditionType.ACCEPTED, "True", "Valid", "The spec is valid."),
        Claim(ConditionType.RUNNING, "True" if runs else "False", reason, message),
        Claim(ConditionType.COMPLETE, "True" if phase is Phase.SUCCEEDED else "False", reason, message),
        Claim(ConditionType.FAILED, "True" if phase is Phase.FAILED else "False", reason, message),
        Claim(ConditionType.READY, "True" if phase is Phase.SUCCEEDED else "False", reason, message),
        Claim(ConditionType.STALLED, "True" if phase is Phase.FAILED else "False", reason, message),
        Claim(ConditionType.DEGRADED, "False", "AsExpected", ""),
        Claim(ConditionType.BACKEND_REACHABLE, "True", "Reachable", ""),
    ]
    if has_nodes or phase in (Phase.SUSPENDED, *_ENDED):
        found.append(Claim(ConditionType.SCHEDULED, "True" if has_nodes else "False", reason, message))
    return found


def _merged(before: Condition | None, claim: Claim, *, generation: int, now_s: float) -> Condition:
    changed = before is None or before.status != claim.status
    return Condition(
        type=claim.type,
        status=claim.status,
        reason=cut(claim.reason, 128),
        message=cut(claim.message, 1024),
        last_transition_time=moment(now_s) if before is None or changed else before.last_transition_time,
        observed_generation=generation,
    )
