"""What is seen of an attempt, from the job's own report, the trainer's files and the scheduler's word."""

import time

from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.backend import Observed, RunState
from sam3ft_launch.folder.last_word import heartbeat_age_s, read_last_word, read_progress
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import read_stop_request
from sam3ft_launch.slurm.record import JobReport, SlurmRecord
from sam3ft_launch.slurm.states import JobState, JobView, sentence

LOST_AFTER_S = 60.0
"""Age of a submission from which a job that the scheduler does not know is lost, and not only not there yet."""
_CODES = {
    JobState.OUT_OF_MEMORY: ExitCode.KILLED,
    JobState.CANCELLED: ExitCode.TERMINATED,
    JobState.TIME_LIMIT: ExitCode.TERMINATED,
    JobState.PREEMPTED: ExitCode.TERMINATED,
    JobState.DEADLINE: ExitCode.TERMINATED,
    JobState.NODE_FAILURE: ExitCode.PEER_LOST,
}
"""Codes of attempts whose script had no last word: SLURM ended it from outside."""
_WHY = {
    JobState.OUT_OF_MEMORY: "SLURM ended the job for lack of host memory; ask for more with workers.resources.memory",
    JobState.CANCELLED: "the job was cancelled with scancel",
    JobState.TIME_LIMIT: "the time limit was reached before the run had saved; raise slurm.timeLimit, or "
    "workers.terminationGracePeriodSeconds, which is how long before the limit it begins to save",
    JobState.PREEMPTED: "the job was preempted, and the site does not put such jobs back into the queue",
    JobState.NODE_FAILURE: "a node failed, and the site does not put such jobs back into the queue",
    JobState.DEADLINE: "the deadline of the job has passed",
}


def ended(folder: RunDir, report: JobReport, code: int) -> Observed:
    """Return the state of an attempt whose job has said its last word."""
    return Observed(
        RunState.of_end(code),
        exit_code=code,
        reason=report.reason,
        message=report.message,
        node=report.host,
        heartbeat_age_s=heartbeat_age_s(folder.progress),
        progress=read_progress(folder.progress),
        restarts=max(0, report.starts - 1),
    )


def unseen(folder: RunDir, record: SlurmRecord) -> Observed:
    """Return the state of an attempt whose job SLURM does not know, and which has said no last word."""
    if time.time() - record.submitted_unix_s < LOST_AFTER_S:
        return Observed(RunState.PENDING)
    said = "SLURM knows nothing of the job any more; the same command goes on from the newest checkpoint"
    return Observed(RunState.GONE, reason="JobLost", message=said, progress=read_progress(folder.progress))


def without_nodes(folder: RunDir, record: SlurmRecord) -> str:
    """Return why nodes of an elastic run have no job and will have none soon; empty where that is none."""
    said = []
    for job in record.node_jobs:
        if job.refused:
            said.append(f"node {job.slot} is missing: {job.refused}")
        elif folder.stays_empty(record.attempt, job.slot):
            log = folder.node_log(job.job_id)
            said.append(f"node {job.slot} is missing: its job has failed on every node that it had; see {log}")
    return "; ".join(said)


def going_on(
    folder: RunDir, report: JobReport | None, job: JobView, *, attempt: int, while_running: str = ""
) -> Observed:
    """Return the state of an attempt whose job has not said its last word.

    Args:
        folder: of the run.
        report: of the job; None before its first word.
        job: what the scheduler says.
        attempt: its number.
        while_running: message of a run that trains.
    """
    progress = read_progress(folder.progress)
    if job.state is JobState.CANCELLED and read_stop_request(folder.stop_request, attempt=attempt) is not None:
        said = "cancelled while no worker ran; nothing was lost"
        code = int(ExitCode.INTERRUPTED)
        return Observed(RunState.INTERRUPTED, exit_code=code, reason="Interrupted", message=said, progress=progress)
    restarts = report.starts if report else 0
    if job.state.is_over and (word := read_last_word(folder.last_word)) is not None:
        # SLURM ended it from outside, and the script came to no verdict; the launchers have left their word.
        state = RunState.INTERRUPTED if word.code == ExitCode.INTERRUPTED else RunState.FAILED
        return Observed(
            state,
            exit_code=word.code or int(ExitCode.INTERNAL_ERROR),
            reason=str(job.state),
            message=f"{_WHY.get(job.state, f'the job ended as {job.word}')}; {word.message}",
            node=job.nodes,
            progress=progress,
            restarts=restarts,
        )
    if job.state.is_over:
        code = int(_CODES.get(job.state, ExitCode.INTERNAL_ERROR))
        why = _WHY.get(job.state) or _without_a_word(folder, job)
        state = RunState.INTERRUPTED if job.state is JobState.CANCELLED else RunState.FAILED
        return Observed(state, exit_code=code, reason=str(job.state), message=why, node=job.nodes, progress=progress)
    is_running = job.state in (JobState.RUNNING, JobState.ENDING) and progress is not None
    return Observed(
        RunState.RUNNING if is_running else RunState.PENDING,
        reason=str(job.state),
        message=while_running if is_running else sentence(job),
        node=job.nodes,
        heartbeat_age_s=heartbeat_age_s(folder.progress),
        progress=progress,
        restarts=restarts,
    )


def _without_a_word(folder: RunDir, job: JobView) -> str:
    if folder.log.exists():
        return f"the job ended as {job.word} without a last word; its log is {folder.log}"
    return f"job {job.job_id} ended as {job.word} before its script began; `scontrol show job {job.job_id}` may say why"
