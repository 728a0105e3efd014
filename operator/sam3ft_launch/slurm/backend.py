"""The SLURM backend: a run in a folder that login node and compute nodes share, driven by one batch job an attempt."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam3ft_api import names
from sam3ft_api.errors import Fenced, InvalidConfig, StorageDenied
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.files import write_atomically
from sam3ft_api.plan import JobPlan
from sam3ft_launch.backend import Capabilities, Handle, Observed, RunState, TransientError
from sam3ft_launch.folder.last_word import read_progress
from sam3ft_launch.folder.logs import follow_lines, last_lines
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import StopRequest, write_stop_request
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.environment import environment_file, job_environment
from sam3ft_launch.slurm.record import JobReport, SlurmRecord, read_record, read_report, write
from sam3ft_launch.slurm.script import render_script
from sam3ft_launch.slurm.settings import SlurmSettings
from sam3ft_launch.slurm.states import JobState, JobView, sentence
from sam3ft_launch.slurm.submission import SlurmSubmission

_LOCK_WAIT_S = 60.0
_LOST_AFTER = 3
"""Looks in a row without a trace of a job until it counts as lost."""
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
    JobState.CANCELLED: "the job was cancelled with scancel before it could save",
    JobState.TIME_LIMIT: "the time limit was reached before the run had saved; raise slurm.timeLimit, or "
    "workers.terminationGracePeriodSeconds, which is how long before the limit it begins to save",
    JobState.PREEMPTED: "the job was preempted, and the site does not put such jobs back into the queue",
    JobState.NODE_FAILURE: "a node failed, and the site does not put such jobs back into the queue",
    JobState.DEADLINE: "the deadline of the job has passed",
}


@dataclass(slots=True)
class _Look:
    """What the scheduler said last of one job, and when."""

    at_s: float
    job: JobView | None
    absent: int = 0


class SlurmBackend:
    """Runs on the site whose login node this is; a handle's location is the run folder.

    Attributes:
        name: `slurm`.
        capabilities: several nodes; logs can be followed; the job begins its launchers again, and requeues itself.
    """

    name = "slurm"
    capabilities = Capabilities(multi_node=True, follow_logs=True, restarts_itself=True)

    def __init__(
        self,
        runs: Path,
        *,
        settings: SlurmSettings | None = None,
        client: SlurmClient | None = None,
        run_dir: Path | None = None,
        launcher_command: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is touched or asked.

        Args:
            runs: absolute folder whose subfolders, by name of the run, are the run folders.
            settings: of the site.
            client: its programs.
            run_dir: absolute folder to use instead, for the one run that it holds.
            launcher_command: how a launcher is started, without its arguments; empty for the trainer's.
            clock: monotonic seconds.
        """
        self._runs, self._run_dir = runs, run_dir
        self._settings = settings or SlurmSettings()
        self._client = client or SlurmClient()
        self._launcher_command = tuple(launcher_command)
        self._clock = clock
        self._looks: dict[str, _Look] = {}

    def render(self, plan: JobPlan) -> SlurmSubmission:
        """Return the batch script that `submit` would hand in; pure.

        Raises:
            InvalidConfig: the run folder's path or the time limit does not do.
        """
        folder = RunDir(self._run_dir or self._runs / plan.name)
        return SlurmSubmission(
            name=plan.name,
            uid=plan.uid,
            attempt=plan.attempt,
            run_dir=str(folder.root),
            job_name=names.slurm_job_name(plan.uid, plan.attempt),
            nodes=plan.nodes,
            processes=plan.processes_per_node,
            script=render_script(plan, self._settings, folder, launcher=self._launcher_command),
            env=plan.env,
            config_json=plan.config.model_dump_json(indent=2) + "\n",
            finetune_yaml=plan.source,
        )

    def submit(self, submission: SlurmSubmission) -> Handle:
        """Submit the job, once per (uid, attempt), whatever moment this process dies at.

        The name is written down before the job is submitted; who comes back looks for a job of that name first, and in
        the folder for the number that the job itself has left there.

        Raises:
            Fenced: the folder belongs to another run, or the attempt is an old one.
            StorageDenied: the folder cannot be made.
            InvalidConfig: SLURM refuses the job; its words are in the message.
            TransientError: it is not known whether it was accepted; call again.
        """
        folder = submission.folder
        handle = Handle(self.name, submission.uid, submission.attempt, submission.run_dir)
        folder.create()
        with folder.driving(wait_s=_LOCK_WAIT_S):
            record = self._begun(folder, submission)
            if record.job_id:
                return handle
            if record.refused:
                raise InvalidConfig(record.refused)
            number = self._find(folder, record)
            if not number:
                try:
                    number = self._client.submit(str(folder.slurm_script(submission.attempt)))
                except InvalidConfig as refusal:
                    write(folder.slurm, record.model_copy(update={"refused": str(refusal)}))
                    raise
            write(folder.slurm, record.model_copy(update={"job_id": number}))
        return handle

    def observe(self, handle: Handle) -> Observed:
        """Return the state from the job's report, the trainer's progress file and the scheduler.

        The scheduler is asked every `poll_s` of the settings at most; in between its last word stands.

        Raises:
            TransientError: a file exists and cannot be read, or nothing is known and the scheduler does not answer.
        """
        folder = RunDir(Path(handle.location))
        record = self._own_record(handle)
        if record is None:
            return Observed(RunState.GONE, message=f"{folder.root} holds no such attempt")
        if record.refused:
            return Observed(RunState.FAILED, exit_code=int(ExitCode.INVALID_CONFIG), message=record.refused)
        report = self._report(folder, record)
        if report is not None and report.code is not None:
            return _ended(folder, report, report.code)
        look = self._look(record)
        report = self._report(folder, record)  # again: the job may have written its last word before it went
        if report is not None and report.code is not None:
            return _ended(folder, report, report.code)
        return _going_on(folder, report, look)

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        """Ask the launchers to save and end; a job that does not run, or has no time to save, is ended at once.

        Raises:
            TransientError: the scheduler did not answer.
        """
        record, folder = self._own_record(handle), RunDir(Path(handle.location))
        if record is None or not record.job_id or self.observe(handle).state.is_terminal:
            return
        write_stop_request(folder.stop_request, StopRequest(attempt=handle.attempt, grace_s=grace_s))
        self._looks.pop(record.job_id, None)
        job = self._look(record).job
        if job is not None and job.state is JobState.RUNNING and grace_s > 0:
            self._client.signal(record.job_id, "TERM")
        else:
            self._client.cancel(record.job_id)
            self._looks.pop(record.job_id, None)

    def delete(self, handle: Handle) -> None:
        """End the job and remove everything but checkpoints and model.

        Raises:
            TransientError: the scheduler did not answer.
        """
        record, folder = self._own_record(handle), RunDir(Path(handle.location))
        if record is None:
            return
        number = record.job_id or self._find(folder, record)
        if number:
            self._client.kill(number)
            self._wait_until_gone(number)
        with folder.driving(wait_s=_LOCK_WAIT_S):
            folder.remove_state()

    def logs(self, handle: Handle, *, lines: int, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """Yield lines of the job's log, which holds every attempt.

        Args:
            handle: the run.
            lines: how many to begin with.
            follow: go on until the run ends.
            rank: the log of this worker instead of the job's.
        """
        folder = RunDir(Path(handle.location))
        path = folder.log if rank is None else self._worker_log(folder, handle, rank)
        if not follow:
            return iter(last_lines(path, lines=lines))
        return follow_lines(path, lines=lines, is_over=lambda: self.observe(handle).state.is_terminal)

    def _worker_log(self, folder: RunDir, handle: Handle, rank: int) -> Path:
        record = self._own_record(handle)
        slot = rank // record.processes if record else 0
        return folder.node_work(slot) / folder.worker_logs.name / f"rank-{rank}.log"

    def _begun(self, folder: RunDir, submission: SlurmSubmission) -> SlurmRecord:
        """Return the attempt's record; write it, and what the job reads, where this is the first call."""
        record = read_record(folder.slurm)
        if record is not None and record.uid != submission.uid:
            raise Fenced(
                f"run folder {folder.root} belongs to the run {record.name!r} ({record.uid}); "
                "name another folder with --run-dir"
            )
        if record is not None and record.attempt > submission.attempt:
            raise Fenced(f"attempt {submission.attempt} of {record.name!r} is superseded by attempt {record.attempt}")
        if record is not None and record.attempt == submission.attempt:
            return record
        if record is not None:
            self._require_over(folder, record)
        environment = job_environment(submission.env, os.environ)
        folder.progress.unlink(missing_ok=True)  # an earlier attempt's would be taken for this one's
        write_atomically(folder.config, submission.config_json)
        write_atomically(folder.finetune, submission.finetune_yaml)
        write_atomically(folder.slurm_environment(submission.attempt), environment_file(environment), mode=0o600)
        write_atomically(folder.slurm_script(submission.attempt), submission.script)
        record = SlurmRecord(
            name=submission.name,
            uid=submission.uid,
            attempt=submission.attempt,
            job_name=submission.job_name,
            nodes=submission.nodes,
            processes=submission.processes,
            submitted_unix_s=time.time(),
        )
        write(folder.slurm, record)
        return record

    def _require_over(self, folder: RunDir, record: SlurmRecord) -> None:
        earlier = Handle(self.name, record.uid, record.attempt, str(folder.root))
        if not self.observe(earlier).state.is_terminal:
            raise Fenced(
                f"run folder {folder.root} is driven by job {record.job_id}; follow it with `sam3ft logs -f "
                f"{folder.root}`, or stop it with `sam3ft cancel {folder.root}`"
            )

    def _find(self, folder: RunDir, record: SlurmRecord) -> str:
        """Return the number of the attempt's job, wherever it has left a trace; empty when there is none."""
        try:
            return folder.slurm_owner(record.attempt).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return next((job.job_id for job in self._client.named(record.job_name)), "")
        except OSError as error:
            raise TransientError(f"{error.filename}: {error.strerror}") from error

    def _own_record(self, handle: Handle) -> SlurmRecord | None:
        try:
            record = read_record(RunDir(Path(handle.location)).slurm)
        except StorageDenied as error:
            raise TransientError(str(error)) from error
        if record is None or (record.uid, record.attempt) != (handle.uid, handle.attempt):
            return None
        return record

    @staticmethod
    def _report(folder: RunDir, record: SlurmRecord) -> JobReport | None:
        try:
            return read_report(folder.slurm_job, attempt=record.attempt)
        except StorageDenied as error:
            raise TransientError(str(error)) from error

    def _look(self, record: SlurmRecord) -> _Look:
        """Return what the scheduler knows, not older than `poll_s`; its silence leaves the last word standing."""
        number = record.job_id
        look = self._looks.get(number)
        if not number or (look is not None and self._clock() - look.at_s < self._settings.poll_s):
            return look or _Look(self._clock(), None)
        try:
            job = self._client.jobs([number]).get(number)
            if job is None:
                job = self._client.past([number], since_s=record.submitted_unix_s - 60).get(number)
        except TransientError:
            if look is None:
                raise
            look.at_s = self._clock()
            return look
        absent = 0 if job is not None else 1 + (look.absent if look else 0)
        self._looks[number] = _Look(self._clock(), job, absent)
        return self._looks[number]

    def _wait_until_gone(self, number: str) -> None:
        give_up_s = self._clock() + _LOCK_WAIT_S
        while self._clock() < give_up_s:
            job = self._client.jobs([number]).get(number)
            if job is None or job.state.is_over:
                return
            time.sleep(0.2)
        raise TransientError(f"job {number} has been cancelled and has not ended yet; call again")


def _ended(folder: RunDir, report: JobReport, code: int) -> Observed:
    state = RunState.FAILED
    if code == ExitCode.SUCCEEDED:
        state = RunState.SUCCEEDED
    elif code == ExitCode.INTERRUPTED:
        state = RunState.INTERRUPTED
    return Observed(
        state,
        exit_code=code,
        reason=report.reason,
        message=report.message,
        node=report.host,
        heartbeat_age_s=_age_s(folder.progress),
        progress=read_progress(folder.progress),
        restarts=max(0, report.starts - 1),
    )


def _going_on(folder: RunDir, report: JobReport | None, look: _Look) -> Observed:
    """Return the state of an attempt whose job has not said its last word."""
    job, progress = look.job, read_progress(folder.progress)
    restarts = report.starts if report else 0
    if job is None:
        lost = look.absent >= _LOST_AFTER
        said = "SLURM knows nothing of the job; the same command goes on from the newest checkpoint" if lost else ""
        return Observed(RunState.GONE if lost else RunState.PENDING, reason="JobLost" if lost else "", message=said)
    if job.state.is_over:
        code = int(_CODES.get(job.state, ExitCode.INTERNAL_ERROR))
        why = _WHY.get(job.state, f"the job ended as {job.word} without a last word; its log is {folder.log}")
        state = RunState.INTERRUPTED if job.state is JobState.CANCELLED else RunState.FAILED
        return Observed(state, exit_code=code, reason=str(job.state), message=why, node=job.nodes, progress=progress)
    is_running = job.state in (JobState.RUNNING, JobState.ENDING) and progress is not None
    return Observed(
        RunState.RUNNING if is_running else RunState.PENDING,
        reason=str(job.state),
        message="" if job.state is JobState.RUNNING else sentence(job),
        node=job.nodes,
        heartbeat_age_s=_age_s(folder.progress),
        progress=progress,
        restarts=restarts,
    )


def _age_s(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None
