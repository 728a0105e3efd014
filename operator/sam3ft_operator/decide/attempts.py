"""One attempt from its opening to its end: what runs, what ended, whether to go on, and how."""

from dataclasses import replace
from typing import Any

from sam3ft_api import names
from sam3ft_api.names import coordinator_name
from sam3ft_api.status import BudgetStatus, ConditionType, ExportStatus, Phase
from sam3ft_operator.decide import ledger
from sam3ft_operator.decide.budget import add_counted, add_ends, exhaustion
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.ends import PodEnd, Weight, end_of_job, verdict_of_group
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.scale import scale_actions
from sam3ft_operator.decide.stall import stalled_for
from sam3ft_operator.decide.trouble import start_trouble
from sam3ft_operator.decide.words import cut, span
from sam3ft_operator.decision import Action, Delete, Ensure, FailPod, Note, Part
from sam3ft_operator.observed import PodView

MOST_ENDS = 4
"""Failed pods of one Job after which a fresh attempt is made: the Job controller would wait 80 s for the next one."""
PAUSES_S = (0.0, 10.0, 20.0, 40.0, 60.0)
"""Pause before an attempt, by the ends in a row without a newer commit."""
COORDINATOR_START_S = 60.0
LOOK_AGAIN_S = 15.0


def attempt_course(look: Look) -> Course:
    """Return what follows for a run whose data set is ready and that nobody has paused or ended."""
    if look.attempt is None:
        return _between(look)
    ends = ledger.ends_of(look.workers)
    changes = ledger.counted(look, ends)
    verdict = _verdict(look, ends)
    if verdict is not None:
        return failed(look, changes, reason=verdict.reason, message=verdict.message, end=verdict)
    if _is_complete(look):
        return _succeeded(look, changes)
    budget = changes.get("budget", look.status.budget) or BudgetStatus()
    spent = exhaustion(budget, look.spec.failure_policy, now_s=look.now_s)
    if spent:
        last = ends[-1] if ends else None
        message = cut(f"{spent} {last.message if last is not None else ''}".strip(), 1024)
        return failed(look, changes, reason="BudgetSpent", message=message, end=last)
    rolled = _roll(look, ends, changes)
    return rolled if rolled is not None else _going_on(look, changes)


def failed(look: Look, changes: dict[str, Any], *, reason: str, message: str, end: PodEnd | None) -> Course:
    """Return the end of the run as Failed; its open attempt is closed."""
    closed = ledger.closed(look, changes, reason=end.reason if end is not None else reason, end=end)
    return Course(
        Phase.FAILED, reason, message, changes=closed, notes=(Note("Warning", reason, message),), requeue_s=0.0
    )


def _succeeded(look: Look, changes: dict[str, Any]) -> Course:
    closed = ledger.closed(look, changes, reason="Succeeded", code=0)
    closed["attempts"] = (*closed["attempts"][:-1], closed["attempts"][-1].model_copy(update={"lost_steps": None}))
    if look.spec.export.uri:
        closed["export"] = ExportStatus(uri=look.spec.export.uri)
    message = f"The run is complete: {look.spec.export.uri}" if look.spec.export.uri else "The run is complete."
    return Course(
        Phase.SUCCEEDED,
        "Succeeded",
        message,
        changes=closed,
        notes=(Note("Normal", "Succeeded", message),),
        requeue_s=0.0,
    )


def _is_complete(look: Look) -> bool:
    job = look.job
    return job is not None and job.is_complete


def _verdict(look: Look, ends: tuple[PodEnd, ...]) -> PodEnd | None:
    """Return what ends the run: a pod's word first, because it names rank and traceback."""
    found = next((end for end in ends if end.weight is Weight.VERDICT), None)
    group = look.group
    if found is None and group is not None and group.verdict is not None:
        told = group.verdict
        found = verdict_of_group(
            told.code, told.message, node=told.node, rank=told.rank, step=told.step, at_s=group.read_s
        )
    job = look.job
    if found is None and job is not None and job.failure_reason:
        found = end_of_job(job.failure_reason, job.failure_message, at_s=look.now_s)
    return found


def _roll(look: Look, ends: tuple[PodEnd, ...], changes: dict[str, Any]) -> Course | None:
    """Return the course that closes the attempt to open a fresh one; None while this one can go on."""
    job = look.job
    stall_s = stalled_for(look)
    if job is not None and job.failure_reason:
        reason, why = "JobFailed", f"Job {job.name} failed: {job.failure_reason}: {job.failure_message}"
    elif len(ends) >= MOST_ENDS:
        reason, why = "BackoffAvoided", f"{len(ends)} pods of attempt {_number(look)} have ended"
    elif stall_s is not None:
        reason, why = "Hung", f"no step has finished for {span(stall_s)}"
    else:
        return None
    last = ends[-1] if ends and reason != "Hung" else None
    closed = ledger.closed(look, changes, reason=last.reason if last is not None else reason, end=last)
    if not ends:
        before = closed.get("budget", look.status.budget) or BudgetStatus()
        closed["budget"] = add_ends(before, count=1, commit_step=None)
    if reason == "Hung":
        closed = _count_hang(look, closed)
    message = cut(f"{why}; a fresh attempt goes on from the newest commit.", 1024)
    return Course(
        Phase.RESTARTING, reason, message, changes=closed, notes=(Note("Warning", reason, message),), requeue_s=0.0
    )


def _count_hang(look: Look, changes: dict[str, Any]) -> dict[str, Any]:
    budget = add_counted(changes.get("budget") or look.status.budget or BudgetStatus(), count=1, at_s=look.now_s)
    return {**changes, "budget": budget, "restarts": changes.get("restarts", look.status.restarts) + 1}


def _between(look: Look) -> Course:
    """No attempt is open: remove what the last one left, wait its pause, and open the next."""
    is_first = look.newest is None
    phase = Phase.STARTING if is_first else Phase.RESTARTING
    leftovers = remove_workers(look)
    if leftovers or not ledger.workers_gone(look):
        return Course(
            phase, "CleaningUp", "Pods of the attempt before are ended.", actions=leftovers, requeue_s=LOOK_AGAIN_S
        )
    pause_s = _pause_left(look)
    if pause_s > 0:
        message = f"The next attempt begins in {span(pause_s)}."
        return Course(phase, "BackOff", message, requeue_s=pause_s)
    changes = ledger.opened(look)
    number = changes["attempts"][-1].n
    nodes = look.spec.workers.nodes
    message = f"Attempt {number} starts with {nodes} node{'s' if nodes > 1 else ''}."
    return Course(
        phase, "Starting", message, changes=changes, notes=(Note("Normal", "Starting", message),), requeue_s=0.0
    )


def remove_workers(look: Look) -> tuple[Action, ...]:
    """Return the deletions of every Job of workers but the open attempt's, and of coordinators of other attempts."""
    number = _number(look)
    jobs = [job for job in look.children.jobs if job.role == names.ROLE_WORKER and job.attempt != number]
    pods = [pod for pod in look.children.of_role(names.ROLE_COORDINATOR) if pod.attempt != number]
    return (
        *(Delete("Job", job.name, job.uid) for job in jobs if not job.is_deleted),
        *(Delete("Pod", pod.name, pod.uid) for pod in pods if pod.deletion_s is None),
    )


def _pause_left(look: Look) -> float:
    newest = look.newest
    if newest is None or newest.finished is None or newest.reason == "Suspended":
        return 0.0
    stuck = (look.status.budget or BudgetStatus()).without_progress
    pause_s = PAUSES_S[min(stuck, len(PAUSES_S) - 1)]
    return newest.finished.timestamp() + pause_s - look.now_s


def _going_on(look: Look, changes: dict[str, Any]) -> Course:
    """The attempt is open: make what is missing of it, mend what is broken, and say how far it is."""
    actions = (*remove_workers(look), *_missing(look), *scale_actions(look), *_dead(look.workers, look.now_s))
    course = _standing(look)
    return replace(
        course,
        changes=changes,
        actions=actions,
        requeue_s=min(LOOK_AGAIN_S, course.requeue_s) if course.requeue_s is not None else LOOK_AGAIN_S,
    )


def _missing(look: Look) -> tuple[Action, ...]:
    """Return what makes the group and the Job whole again, however they came to be missing."""
    number, run = _number(look), look.resource.name
    coordinators = look.children.of_role(names.ROLE_COORDINATOR, attempt=number)
    made: list[Action] = []
    ended = [pod for pod in coordinators if (pod.has_ended or pod.is_node_lost) and pod.deletion_s is None]
    made += [Delete("Pod", pod.name, pod.uid) for pod in ended]
    others = look.children.of_role(names.ROLE_COORDINATOR)
    is_served = ("Service", coordinator_name(run)) in look.children.objects
    if not is_served or not others:
        made.append(Ensure(Part.GROUP, attempt=number))
    job_is_there = any(job.role == names.ROLE_WORKER for job in look.children.jobs)
    if not job_is_there and not look.living:
        nodes = look.spec.workers.nodes
        made.append(Ensure(Part.WORKERS, attempt=number, nodes=nodes, excluded_nodes=ledger.excluded_nodes(look)))
    return tuple(made)


def _dead(pods: tuple[PodView, ...], now_s: float) -> tuple[FailPod, ...]:
    """Return the pods to write off: their node is gone, and nobody will ever report their end."""
    return tuple(
        FailPod(pod.name, pod.uid, f"node {pod.node} does not answer")
        for pod in pods
        if pod.is_node_lost and not pod.has_ended and pod.deletion_s is not None and pod.deletion_s <= now_s
    )


def _standing(look: Look) -> Course:
    """Return where an open attempt stands."""
    job, group, number = look.job, look.group, _number(look)
    has_run = look.status.phase is Phase.RUNNING or number > 1 or (look.status.progress or None) is not None
    starting = Phase.RESTARTING if number > 1 else Phase.STARTING
    running = [pod for pod in look.workers if pod.phase == "Running"]
    if job is not None and job.is_suspended and look.spec.queue is not None and not running:
        queue = look.spec.queue.local_queue
        return Course(Phase.QUEUED, "Queued", f"Kueue has not admitted the run yet; it waits in LocalQueue {queue}.")
    trouble = start_trouble(look, (job,) if job is not None else (), (*look.workers, *_coordinators(look)))
    if group is not None and group.state in ("running", "stopping") and group.ready_nodes:
        message = f"{group.ready_nodes} of {look.spec.workers.nodes} nodes train."
        return Course(Phase.RUNNING, "Running", message, claims=trouble.claims() if trouble is not None else ())
    if trouble is not None:
        return trouble.course(starting)
    if running and look.status.phase is Phase.RUNNING and group is None:
        claim = Claim(
            ConditionType.BACKEND_REACHABLE, "Unknown", "CoordinatorSilent", "the coordinator does not answer"
        )
        return Course(
            Phase.RUNNING, "CoordinatorSilent", "The coordinator does not answer; the workers go on.", claims=(claim,)
        )
    if running:
        known = group.known_nodes if group is not None else 0
        message = f"{known} of {look.spec.workers.nodes} nodes have joined."
        return Course(Phase.RESTARTING if has_run else starting, "Joining", message)
    return Course(starting, "Starting", f"Attempt {number} waits for its pods.")


def _coordinators(look: Look) -> tuple[PodView, ...]:
    return look.children.of_role(names.ROLE_COORDINATOR, attempt=_number(look))


def _number(look: Look) -> int:
    return look.attempt.n if look.attempt is not None else 0
