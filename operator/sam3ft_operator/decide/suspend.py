"""`suspend: true`: pods save and end, nodes are given back, the attempt is closed; going on is a new attempt."""

from sam3ft_api.status import Phase
from sam3ft_operator.decide import ledger
from sam3ft_operator.decide.attempts import attempt_course, remove_workers
from sam3ft_operator.decide.course import Course
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decision import Action, Admit, Note, Pause
from sam3ft_operator.observed import JobView

SUSPENDED = "Suspended"
GIVEN_BACK = "The nodes are given back; set spec.suspend: false to go on."
LOOK_AGAIN_S = 15.0


def suspend_course(look: Look) -> Course | None:
    """Return what the wish to pause asks for; None without it.

    A pause that was begun is finished even if the wish is taken back meanwhile: a paused Job is never continued.
    """
    if not look.spec.suspend and not _is_pausing(look):
        return None
    if look.attempt is None:
        leftovers = remove_workers(look)
        return Course(Phase.SUSPENDED, SUSPENDED, GIVEN_BACK, actions=leftovers)
    course = attempt_course(look)
    if course.phase.is_final:
        return course  # it ended, well or not, before the wish reached it
    ends = ledger.counted(look, ledger.ends_of(look.workers))
    if not ledger.workers_gone(look):
        message = "Workers save a checkpoint and end."
        return Course(
            Phase.CHECKPOINTING,
            "Suspending",
            message,
            changes=ends,
            actions=stop_actions(look, look.job),
            requeue_s=LOOK_AGAIN_S,
        )
    if look.job is not None and not look.job.is_suspended and not look.job.has_ended:
        # No pod is there yet, and the Job controller could make one at any moment.
        stops = stop_actions(look, look.job)
        return Course(Phase.CHECKPOINTING, "Suspending", "The Job is paused.", ends, actions=stops, requeue_s=5.0)
    changes = ledger.closed(look, ends, reason=SUSPENDED)
    note = Note("Normal", SUSPENDED, GIVEN_BACK)
    return Course(Phase.SUSPENDED, SUSPENDED, GIVEN_BACK, changes, notes=(note,), requeue_s=0.0)


def _is_pausing(look: Look) -> bool:
    """Say whether the open attempt's Job is paused, by us or by hand; a Job that waits for Kueue is not."""
    job = look.job
    if job is None or not job.is_suspended:
        return False
    return look.spec.queue is None or look.status.phase is Phase.CHECKPOINTING


def stop_actions(look: Look, job: JobView | None) -> tuple[Action, ...]:
    """Return what asks the pods of a Job to save and end; nothing when that has been asked, or they have ended."""
    if job is None or job.has_ended or job.is_deleted or job.is_suspended:
        return ()
    if look.spec.queue is not None:
        # Kueue undoes a change of the Job's own field; what it admits is the Workload.
        return (Admit(job.name, job.uid, is_active=False),)
    return (Pause(job.name, suspend=True),)
