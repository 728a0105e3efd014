"""What the policies agree on: the word for people, the conditions, the changes of the status, and the actions."""

from dataclasses import dataclass, field
from typing import Any, Literal

from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decision import Action, Note


@dataclass(frozen=True, slots=True)
class Claim:
    """One condition as a policy sees it.

    Attributes:
        type: what is observed.
        status: whether it holds.
        reason: CamelCase word.
        message: one sentence.
    """

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Course:
    """What follows from one look, before it is written into a status.

    Attributes:
        phase: where the run stands.
        reason: CamelCase word of it.
        message: what the run does or waits for, in one sentence.
        changes: fields of the status that change.
        claims: conditions beside those that follow from the phase.
        actions: in order.
        notes: events.
        requeue_s: look again after so many seconds; None when only a change matters.
    """

    phase: Phase
    reason: str
    message: str
    changes: dict[str, Any] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    requeue_s: float | None = None
