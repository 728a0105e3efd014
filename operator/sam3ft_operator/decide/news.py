"""Events that follow from what has changed between two statuses, so that a look repeated tells none twice."""

from sam3ft_api.status import ConditionType, Phase, SAM3FineTuneStatus
from sam3ft_operator.decide.conditions import condition_of
from sam3ft_operator.decide.words import cut
from sam3ft_operator.decision import Note

_TOLD = (Phase.CHECKING, Phase.QUEUED, Phase.RUNNING, Phase.CHECKPOINTING)
"""Phases whose beginning is told here; the policies tell the others, with what they know."""


def news(before: SAM3FineTuneStatus, after: SAM3FineTuneStatus) -> tuple[Note, ...]:
    """Return the events of one change: a phase that began, a trouble that came, another number of nodes wanted."""
    found: list[Note] = []
    running = condition_of(after, ConditionType.RUNNING)
    if after.phase in _TOLD and before.phase is not after.phase and running is not None:
        found.append(Note("Normal", running.reason, running.message))
    trouble, known = condition_of(after, ConditionType.DEGRADED), condition_of(before, ConditionType.DEGRADED)
    if trouble is not None and trouble.status == "True" and (known is None or known.reason != trouble.reason):
        found.append(Note("Warning", trouble.reason, trouble.message))
    was, now = (status.workers.desired if status.workers is not None else 0 for status in (before, after))
    is_at_work = bool(after.attempts) and after.attempts[-1].finished is None
    if was and now and was != now and is_at_work:
        found.append(Note("Normal", "Scaled", f"The run is scaled from {was} to {now} nodes."))
    return tuple(Note(note.type, note.reason, cut(note.message, 1024)) for note in found)
