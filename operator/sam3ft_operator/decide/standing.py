"""Where an open attempt stands: queued, starting, running, leaving its nodes, or forming again."""

from dataclasses import replace

from sam3ft_api import names
from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decide.conditions import condition_of
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.trouble import Trouble, start_trouble
from sam3ft_operator.decide.words import cut
from sam3ft_operator.observed import PodView

SILENT_S = 300.0
"""Seconds after which a coordinator that does not answer is no longer a matter of moments."""
QUIET_S = 120.0
"""Age of the newest step up to which a coordinator that does not answer is not even mentioned."""
SILENT = "CoordinatorSilent"


def standing(look: Look) -> Course:
    """Return where an open attempt stands, with the conditions that say so."""
    job, group = look.job, look.group
    running = [pod for pod in look.workers if pod.phase == "Running"]
    if job is not None and job.is_suspended and look.queue and not running:
        why = job.trouble.rstrip(". ") or "see its Workload"
        message = f"Kueue has not admitted the run yet; it waits in LocalQueue {look.queue}: {cut(why, 800)}"
        message += "; free quota, or lower workers.nodes."
        claim = Claim(ConditionType.SCHEDULED, "False", "Queued", message)
        return Course(Phase.QUEUED, "Queued", message, claims=(claim,))
    if running and all(pod.deletion_s is not None for pod in running):
        return Course(Phase.CHECKPOINTING, "Evicted", "The workers were asked to leave their nodes; they save and end.")
    coordinators = look.children.of_role(names.ROLE_COORDINATOR, attempt=_number(look))
    trouble = start_trouble(look, (job,) if job is not None else (), (*look.workers, *coordinators))
    if group is not None and group.state in ("running", "stopping") and group.ready_nodes:
        return _running(look, group.ready_nodes, trouble)
    if group is not None and group.state == "complete":
        return Course(Phase.RUNNING, "Finishing", "The model is exported; the workers end.")
    course = _starting(look, running) if trouble is None else trouble.course(_word(look))
    if running and group is None:
        # Only a trouble that the cluster tells is worth more than that nobody can say how the workers are.
        course = _silent(look, trouble, course)
    return course


def _running(look: Look, ready: int, trouble: Trouble | None) -> Course:
    nodes = look.spec.workers.nodes
    message = f"{ready} of {nodes} nodes train."
    if trouble is None:
        return Course(Phase.RUNNING, "Running", message)
    return Course(Phase.RUNNING, "Running", cut(f"{message[:-1]}; {trouble.message}", 1024), claims=trouble.claims())


def _starting(look: Look, running: list[PodView]) -> Course:
    nodes = look.spec.workers.nodes
    placed = sum(bool(pod.node) and not pod.has_ended for pod in look.workers)
    if running:
        known = look.group.known_nodes if look.group is not None else 0
        course = Course(_word(look), "Joining", f"{known} of {nodes} nodes have joined.")
    else:
        course = Course(_word(look), "Starting", f"Attempt {_number(look)} waits for its pods.")
    words = f"{placed} of {nodes} pods have a node."
    claim = Claim(ConditionType.SCHEDULED, "True" if placed >= nodes else "Unknown", course.reason, words)
    return replace(course, claims=(claim,))


def _silent(look: Look, trouble: Trouble | None, course: Course) -> Course:
    """Nobody can ask how the workers are; that is said, and nothing else follows: they do not need the operator."""
    was_running = look.status.phase is Phase.RUNNING
    if was_running and trouble is None and _has_just_told(look):
        return _as_before(look)
    known = condition_of(look.status, ConditionType.BACKEND_REACHABLE)
    since_s = known.last_transition_time.timestamp() if known is not None else look.now_s
    is_long = known is not None and (
        known.status == "False" or (known.status == "Unknown" and look.now_s - since_s >= SILENT_S)
    )
    message = "The coordinator does not answer; the workers go on."
    claims: list[Claim] = [Claim(ConditionType.BACKEND_REACHABLE, "False" if is_long else "Unknown", SILENT, message)]
    if is_long and trouble is None:
        claims.append(Claim(ConditionType.DEGRADED, "True", SILENT, message))
    if was_running and trouble is None:
        return Course(Phase.RUNNING, SILENT, message, claims=tuple(claims))
    return replace(course, claims=(*course.claims, *claims))


def _has_just_told(look: Look) -> bool:
    """Say whether a step is known that is so young that the silence means nothing yet: the operator may be new."""
    progress = look.status.progress
    if progress is None or progress.last_step_time is None:
        return False
    return look.now_s - progress.last_step_time.timestamp() < QUIET_S


def _as_before(look: Look) -> Course:
    running = condition_of(look.status, ConditionType.RUNNING)
    summary = look.status.summary
    reason = running.reason if running is not None else "Running"
    return Course(Phase.RUNNING, reason, summary.message if summary is not None else "")


def _word(look: Look) -> Phase:
    """Return Starting until the group of the first attempt has formed once, Restarting afterwards."""
    has_run = look.status.phase in (Phase.RUNNING, Phase.RESTARTING, Phase.CHECKPOINTING)
    return Phase.RESTARTING if has_run or _number(look) > 1 else Phase.STARTING


def _number(look: Look) -> int:
    return look.attempt.n if look.attempt is not None else 0
