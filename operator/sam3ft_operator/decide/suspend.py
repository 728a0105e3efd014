"""`suspend: true`: pods save and end, nodes are given back, the attempt is closed; going on is a new attempt."""

from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decide import ledger
from sam3ft_operator.decide.attempts import attempt_course
from sam3ft_operator.decide.course import Course
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.mend import remove_older, written_off
from sam3ft_operator.decision import Action, Admit, Note, Pause
from sam3ft_operator.observed import JobView

SUSPENDED = "Suspended"
SUSPENDING = "Suspending"
GIVEN_BACK = "The nodes are given back; set spec.suspend: false to go on."
LOOK_AGAIN_S = 15.0


def suspend_course(look: Look) -> Course | None:
    """Return what the wish to pause asks for; None without it.

    A pause that was begun is finished even if the wish is taken back meanwhile: a paused Job is never continued.
    """
    if not look.spec.suspend and not _is_pausing(look):
        return None
    if look.attempt is None:
        if not look.spec.suspend:
            return None
        return Course(Phase.SUSPENDED, SUSPENDED, GIVEN_BACK, actions=(*remove_older(look), *written_off(look)))
    course = saving_course(look, SUSPENDING, "The workers save a checkpoint and give their nodes back.")
    if course is not None:
        return course
    changes = ledger.closed(look, ledger.counted(look, ledger.ends_of(look)), reason=SUSPENDED)
    note = Note("Normal", SUSPENDED, GIVEN_BACK)
    return Course(Phase.SUSPENDED, SUSPENDED, GIVEN_BACK, changes, notes=(note,), requeue_s=0.0)


def saving_course(look: Look, reason: str, message: str) -> Course | None:
    """Return the course that lets the workers of the open attempt save and end; None once none of them is left."""
    course = attempt_course(look)
    if course.phase.is_final:
        return course  # it ended, well or not, before the wish reached it
    job = look.job
    can_make_pods = job is not None and not job.is_suspended and not job.has_ended and not job.is_deleted
    if ledger.workers_gone(look) and not can_make_pods:
        return None
    return Course(
        Phase.CHECKPOINTING,
        reason,
        message,
        changes=ledger.counted(look, ledger.ends_of(look)),
        actions=(*stop_actions(look, job), *written_off(look)),
        requeue_s=LOOK_AGAIN_S,
    )


def stop_actions(look: Look, job: JobView | None) -> tuple[Action, ...]:
    """Return what asks the pods of a Job to save and end; nothing when that has been asked, or they have ended."""
    if job is None or job.has_ended or job.is_deleted or job.is_suspended:
        return ()
    if job.queue or look.spec.queue is not None:
        # Kueue undoes a change of the Job's own field; what it admits is the Workload.
        return (Admit(job.name, job.uid, is_active=False),)
    return (Pause(job.name, suspend=True),)


def _is_pausing(look: Look) -> bool:
    """Say whether the open attempt's Job is paused, by us or by hand; a Job that waits for Kueue is not.

    In a queue what was written before the pause decides, not the Job: Kueue may take a while to show it, a watch may
    lag, and a Workload that was made inactive is never admitted again, so that its attempt can only be closed.
    """
    if look.queue:
        return any(c.type is ConditionType.RUNNING and c.reason in _BY_US for c in look.status.conditions)
    return look.job is not None and look.job.is_suspended


_BY_US = (SUSPENDING, "DeadlineExceeded")
"""Reasons with which the operator itself has paused a Job; Kueue pauses what it preempts, and admits it again."""
