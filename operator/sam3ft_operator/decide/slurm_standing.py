"""Where an open attempt of a SLURM site stands: waiting for its agent, checked, queued, running, or saving."""

from sam3ft_api.status import ConditionType, Phase, ProgressStatus, SlurmStatus
from sam3ft_api.worker import Progress
from sam3ft_launch.slurm.states import JobState, JobView
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.words import account_of, cut
from sam3ft_operator.observed import AgentView, GroupView

SILENT_S = 90.0
"""Seconds without a sign of life after which an agent is called silent; it gives one every 15 s."""
_WAITING = frozenset({JobState.QUEUED, JobState.HELD, JobState.REQUEUED, JobState.SUSPENDED, JobState.UNKNOWN})
_WORDS = {JobState.HELD: "Held", JobState.REQUEUED: "RequeueDelay", JobState.SUSPENDED: "JobSuspended"}


def told_of(look: Look) -> SlurmStatus | None:
    """Return what the agent says of the open attempt; None before it has said anything."""
    told, attempt, wanted = look.status.slurm, look.attempt, look.spec.slurm
    if told is None or attempt is None or wanted is None:
        return None
    return told if (told.site, told.attempt) == (wanted.site, attempt.n) else None


def group_of(told: SlurmStatus | None, *, now_s: float) -> GroupView | None:
    """Return the agent's figures in the form in which a coordinator tells its own; None while there are none."""
    if told is None or (told.progress is None and told.commit_step is None):
        return None
    known = told.progress or ProgressStatus()
    progress = Progress(
        state="training",
        step=known.step,
        total_steps=known.total_steps,
        epoch=known.epoch,
        eta_s=known.eta_seconds,
        images_per_s=known.images_per_second,
        loss=known.loss,
        best_metric=told.best.metric if told.best is not None else None,
        best_value=told.best.value if told.best is not None else None,
        best_step=told.best.step if told.best is not None else None,
        checkpoint_step=told.commit_step,
        last_step_unix_s=known.last_step_time.timestamp() if known.last_step_time is not None else None,
    )
    return GroupView(
        state="running",
        attempt=told.attempt,
        ready_nodes=told.nodes,
        known_nodes=told.nodes,
        commit_step=told.commit_step,
        progress=progress,
        read_s=now_s,
    )


def standing(look: Look, told: SlurmStatus | None, *, is_stopping: bool) -> Course:
    """Return where the attempt stands, with the conditions that say so.

    Args:
        look: of this moment; an attempt is open.
        told: what the agent says of it.
        is_stopping: the run was asked to save and end.
    """
    course = _unheard(look) if told is None else _heard(look, told, is_stopping=is_stopping)
    changes = {**course.changes, "replicas": told.nodes if told is not None else 0}
    claims = (*course.claims, *_data(told), *_reachable(look, told))
    return Course(course.phase, course.reason, course.message, changes=changes, claims=claims)


def _data(told: SlurmStatus | None) -> tuple[Claim, ...]:
    if told is None:
        return ()
    if told.checking:
        return (Claim(ConditionType.DATASET_READY, "Unknown", "Checking", "The data set is being checked."),)
    if told.dataset is None:
        return ()
    return (Claim(ConditionType.DATASET_READY, "True", "Checked", account_of(told.dataset)),)


def _unheard(look: Look) -> Course:
    site = look.spec.slurm.site if look.spec.slurm is not None else "?"
    is_first = look.attempt is not None and look.attempt.n == 1
    message = f"The agent of site {site} takes the run up."
    if look.children.agent is None:
        message = (
            f"No agent of site {site} is known in namespace {look.resource.namespace}; on its login node: "
            f"sam3ft slurm-agent enroll --site {site} -n {look.resource.namespace}, then sam3ft slurm-agent run"
        )
    return Course(Phase.PENDING if is_first else Phase.RESTARTING, "ForAgent", message)


def _heard(look: Look, told: SlurmStatus, *, is_stopping: bool) -> Course:
    changes = {"dataset": told.dataset} if told.dataset is not None else {}
    message = cut(told.message, 1024)
    job = JobView(told.job_id, told.intent, told.state, told.reason, told.restarts, told.node)
    if told.checking:
        return Course(Phase.CHECKING, "Checking", message or "The data set is being checked.", changes)
    if not told.state:
        return Course(Phase.STARTING, "Submitting", message or "The job is being submitted.", changes)
    if is_stopping:
        text = "The workers save a checkpoint and give their nodes back."
        text = "The job is taken out of the queue." if job.state in _WAITING else text
        return Course(Phase.CHECKPOINTING, "Suspending", text, changes)
    if job.state in _WAITING:
        return Course(Phase.QUEUED, _word(job), message, changes, claims=_not_scheduled(job, message))
    if job.state in (JobState.RUNNING, JobState.ENDING) and told.progress is not None:
        missing = cut(told.missing, 1024)
        claims = (Claim(ConditionType.DEGRADED, "True", "NodesMissing", missing),) if missing else ()
        text = cut(f"{_training(look, told)} {missing}".rstrip(), 1024)
        return Course(Phase.RUNNING, "Running", text, changes, claims=claims)
    claim = Claim(ConditionType.SCHEDULED, "True", "Starting", message)
    return Course(Phase.STARTING, "Starting", message, changes, claims=(claim,))


def _training(look: Look, told: SlurmStatus) -> str:
    wanted = look.spec.workers.nodes
    text = f"{told.nodes} {'node trains' if told.nodes == 1 else 'nodes train'} as job {told.job_id}."
    if told.nodes in (0, wanted):
        return text
    return f"{text[:-1]}; {wanted} are wanted from the next attempt on: suspend and resume the run to have them now."


def _word(job: JobView) -> str:
    return "Unschedulable" if job.is_impossible else _WORDS.get(job.state, "Waiting")


def _not_scheduled(job: JobView, message: str) -> tuple[Claim, ...]:
    claims = [Claim(ConditionType.SCHEDULED, "False", _word(job), message)]
    if job.is_impossible or job.state in (JobState.HELD, JobState.SUSPENDED):
        claims.append(Claim(ConditionType.DEGRADED, "True", _word(job), message))
    return tuple(claims)


def _reachable(look: Look, told: SlurmStatus | None) -> tuple[Claim, ...]:
    """An agent or a scheduler that is away is told, and nothing follows: jobs need neither."""
    agent: AgentView | None = look.children.agent
    site = look.spec.slurm.site if look.spec.slurm is not None else "?"
    if agent is None:
        text = f"no agent of site {site} is known in this namespace"
        return (Claim(ConditionType.BACKEND_REACHABLE, "False", "NoAgent", text),)
    if agent.silent_s > SILENT_S:
        # Since when stands beside it: a number here would be a write a minute for every run.
        text = f"the agent of site {site} gives no sign of life; jobs go on without it"
        return (Claim(ConditionType.BACKEND_REACHABLE, "Unknown", "AgentSilent", text),)
    if told is not None and not told.answers:
        text = f"the scheduler of site {site} does not answer; jobs go on without it"
        return (Claim(ConditionType.BACKEND_REACHABLE, "False", "SchedulerSilent", text),)
    return ()
