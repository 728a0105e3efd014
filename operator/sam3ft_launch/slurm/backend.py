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
from sam3ft_launch.folder.logs import follow_lines, last_lines
from sam3ft_launch.folder.rundir import RunDir, others_may_write
from sam3ft_launch.folder.stop import StopRequest, read_stop_request, write_stop_request
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.environment import environment_file, job_environment
from sam3ft_launch.slurm.node_jobs import NodeJobs
from sam3ft_launch.slurm.node_script import render_node_script
from sam3ft_launch.slurm.observation import LOST_AFTER_S, ended, going_on, unseen, without_nodes
from sam3ft_launch.slurm.own_job import claimant, job_number
from sam3ft_launch.slurm.record import JobReport, SlurmRecord, read_record, read_report, write
from sam3ft_launch.slurm.script import is_elastic, render_script
from sam3ft_launch.slurm.settings import SlurmSettings
from sam3ft_launch.slurm.states import JobState, JobView
from sam3ft_launch.slurm.submission import SlurmSubmission

_LOCK_WAIT_S = 60.0


@dataclass(slots=True)
class _Look:
    """What the scheduler said last of one job, and when."""

    at_s: float
    job: JobView | None


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
            node_script=self._node_script(plan, folder),
            env=plan.env,
            sinks=plan.config.tracking.sinks,
            config_json=plan.config.model_dump_json(indent=2) + "\n",
            finetune_yaml=plan.source,
        )

    def _node_script(self, plan: JobPlan, folder: RunDir) -> str:
        if not is_elastic(plan):
            return ""
        return render_node_script(plan, self._settings, folder, launcher=self._launcher_command)

    def submit(self, submission: SlurmSubmission) -> Handle:
        """Submit the job, once per (uid, attempt), whatever moment this process dies at.

        The name is written down before the job is submitted; who comes back looks for a job of that name first, and in
        the folder for the number that the job itself has left there.

        Raises:
            Fenced: the folder belongs to another run, or the attempt is an old one.
            StorageDenied: the folder cannot be made, or others may write into it.
            InvalidConfig: SLURM refuses the job; its words are in the message.
            TransientError: it is not known whether it was accepted; call again.
        """
        folder = submission.folder
        handle = Handle(self.name, submission.uid, submission.attempt, submission.run_dir)
        folder.create()
        _require_private(folder)
        with folder.driving(wait_s=_LOCK_WAIT_S):
            record = self._begun(folder, submission)
            if record.job_id:
                NodeJobs(folder, self._client).fill(record)
                return handle
            if record.refused:
                raise InvalidConfig(record.refused)
            self._find_or_hand_in(folder, record)
        return handle

    def submit_again(self, handle: Handle) -> None:
        """Finish a submission of which nobody knows how it ended: find the job, or hand in what lies in the folder.

        Raises:
            InvalidConfig, TransientError: as `submit`.
        """
        folder = RunDir(Path(handle.location))
        with folder.driving(wait_s=_LOCK_WAIT_S):
            record = self._own_record(handle)
            if record is not None and not record.job_id and not record.refused:
                self._find_or_hand_in(folder, record)

    def _find_or_hand_in(self, folder: RunDir, record: SlurmRecord) -> None:
        number = self._find(folder, record) or self._hand_in(folder, record)
        record = record.model_copy(update={"job_id": number})
        write(folder.slurm, record)
        NodeJobs(folder, self._client).fill(record)

    def mend(self, handle: Handle) -> None:
        """Have jobs of their own for the nodes that have none: beyond the first, and while the run goes on.

        Raises:
            TransientError: the scheduler did not answer.
        """
        folder = RunDir(Path(handle.location))
        with folder.driving(wait_s=_LOCK_WAIT_S):
            record = self._own_record(handle)
            if record is None or record.places == 1 or self._is_asked_to_stop(folder, record):
                return
            first = self._look(folder, record).job
            if first is not None and first.state is JobState.RUNNING:  # without it there is no group to join
                NodeJobs(folder, self._client).fill(record)

    @staticmethod
    def _is_asked_to_stop(folder: RunDir, record: SlurmRecord) -> bool:
        return read_stop_request(folder.stop_request, attempt=record.attempt) is not None

    def _hand_in(self, folder: RunDir, record: SlurmRecord) -> str:
        try:
            return self._client.submit(str(folder.slurm_script(record.attempt)))
        except InvalidConfig as refusal:
            # Whatever the words were: a job that is there was not refused.
            if number := self._find(folder, record):
                return number
            write(folder.slurm, record.model_copy(update={"refused": str(refusal)}))
            folder.slurm_environment(record.attempt).unlink(missing_ok=True)
            raise

    def observe(self, handle: Handle) -> Observed:
        """Return the state from the job's report, the trainer's progress file and the scheduler.

        The scheduler is asked every `poll_s` of the settings at most; in between its last word stands. The credentials
        of an attempt that is over are removed.

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
        job = None
        if report is None or report.code is None:
            job = self._look(folder, record).job
            # Again: the job may have said its last word before it went, on another node of a network file system.
            os.scandir(folder.work).close()
            report = self._report(folder, record)
        if report is not None and report.code is not None:
            folder.slurm_environment(record.attempt).unlink(missing_ok=True)
            return ended(folder, report, report.code)
        if job is None:
            return unseen(folder, record)
        if job.state is JobState.CANCELLED:  # for good: nothing that is cancelled is requeued
            folder.slurm_environment(record.attempt).unlink(missing_ok=True)
        return going_on(folder, report, job, attempt=record.attempt, while_running=without_nodes(folder, record))

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        """Ask the launchers to save and end; a job that does not run, or has no time to save, is ended at once.

        The request lies in the run folder, where the job looks every second, also before it starts launchers.

        Raises:
            TransientError: the scheduler did not answer.
        """
        record, folder = self._own_record(handle), RunDir(Path(handle.location))
        if record is None:
            return
        if self.observe(handle).state.is_terminal:
            NodeJobs(folder, self._client).cancel(record, running=True)
            return
        write_stop_request(folder.stop_request, StopRequest(attempt=handle.attempt, grace_s=grace_s))
        self._looks.clear()
        NodeJobs(folder, self._client).cancel(record, running=grace_s <= 0)
        job = self._look(folder, record).job
        is_running = job is not None and job.state in (JobState.RUNNING, JobState.STARTING)
        if job is not None and not (is_running and grace_s > 0):
            self._client.cancel(job.job_id)
            self._looks.clear()

    def delete(self, handle: Handle) -> None:
        """End the job and remove everything but checkpoints and model.

        Raises:
            TransientError: the scheduler did not answer.
        """
        record, folder = self._own_record(handle), RunDir(Path(handle.location))
        if record is None:
            return
        number = job_number(folder, record)
        living = [*self._client.living_named(record.job_name), *NodeJobs(folder, self._client).living(record)]
        numbers = {number, *(job.job_id for job in living)} - {""}
        for job_id in numbers:
            self._client.kill(job_id)
        for job_id in numbers:
            self._wait_until_gone(job_id)
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
                f"run folder {folder.root} belongs to the run {record.name!r} ({record.uid}), begun by another "
                f"process; follow it with `sam3ft logs -f {folder.root}`, or name another folder with --run-dir"
            )
        if record is not None and record.attempt > submission.attempt:
            raise Fenced(f"attempt {submission.attempt} of {record.name!r} is superseded by attempt {record.attempt}")
        if record is not None and record.attempt == submission.attempt:
            return record
        if record is not None:
            self._require_over(folder, record)
            folder.slurm_environment(record.attempt).unlink(missing_ok=True)
        environment = job_environment(submission.env, os.environ, sinks=submission.sinks)
        for stale in (folder.progress, folder.last_word, folder.stop_request):
            stale.unlink(missing_ok=True)  # it would be taken for this attempt's
        write_atomically(folder.config, submission.config_json)
        write_atomically(folder.finetune, submission.finetune_yaml)
        write_atomically(folder.slurm_environment(submission.attempt), environment_file(environment), mode=0o600)
        write_atomically(folder.slurm_script(submission.attempt), submission.script)
        if submission.node_script:
            write_atomically(folder.slurm_node_script(submission.attempt), submission.node_script)
        write(folder.slurm_job, JobReport(attempt=submission.attempt))
        record = SlurmRecord(
            name=submission.name,
            uid=submission.uid,
            attempt=submission.attempt,
            job_name=submission.job_name,
            nodes=submission.nodes,
            processes=submission.processes,
            places=submission.nodes if submission.node_script else 1,
            submitted_unix_s=time.time(),
        )
        write(folder.slurm, record)
        return record

    def _require_over(self, folder: RunDir, record: SlurmRecord) -> None:
        earlier = Handle(self.name, record.uid, record.attempt, str(folder.root))
        if not self.observe(earlier).state.is_terminal:
            number = job_number(folder, record)
            raise Fenced(
                f"run folder {folder.root} is driven by job {number}; follow it with `sam3ft logs -f {folder.root}`, "
                f"or stop it with `sam3ft cancel {folder.root}`"
            )

    def _find(self, folder: RunDir, record: SlurmRecord) -> str:
        """Return the number of the attempt's job, wherever it has left a trace; empty when there is none."""
        return claimant(folder, record) or self._named(record)

    def _named(self, record: SlurmRecord) -> str:
        return next((job.job_id for job in self._client.named(record.job_name)), "")

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

    def _look(self, folder: RunDir, record: SlurmRecord) -> _Look:
        """Return what the scheduler knows, not older than `poll_s`; its silence leaves the last word standing."""
        look = self._looks.get(record.job_name)
        if look is not None and self._clock() - look.at_s < self._settings.poll_s:
            return look
        try:
            job = self._ask(folder, record)
        except TransientError:
            if look is None:
                raise
            look.at_s = self._clock()
            return look
        self._looks[record.job_name] = _Look(self._clock(), job)
        return self._looks[record.job_name]

    def _ask(self, folder: RunDir, record: SlurmRecord) -> JobView | None:
        owner = claimant(folder, record)
        number = owner or record.job_id or self._named(record)
        if not number:
            return None
        job = self._client.jobs([number]).get(number)
        if job is None:
            job = self._client.past([number], since_s=record.submitted_unix_s - LOST_AFTER_S).get(number)
        if job is not None and job.name != record.job_name:
            job = None  # a scheduler that has lost its state counts anew: the number is another's now
        if not owner and (job is None or job.state.is_over):
            # Nobody has claimed the attempt: its script may have been handed in again, by hand.
            return next(iter(self._client.living_named(record.job_name)), job)
        return job

    def _wait_until_gone(self, number: str) -> None:
        give_up_s = self._clock() + _LOCK_WAIT_S
        while self._clock() < give_up_s:
            job = self._client.jobs([number]).get(number)
            if job is None or job.state.is_over:
                return
            time.sleep(0.2)
        raise TransientError(f"job {number} has been cancelled and has not ended yet; call again")


def _require_private(folder: RunDir) -> None:
    """Make sure that nobody else may write into the folder: the job runs what lies there.

    Raises:
        StorageDenied: somebody may.
    """
    if others_may_write(folder.root):
        raise StorageDenied(
            f"run folder {folder.root} can be written by others, and its files are run as you; `chmod go-w "
            f"{folder.root}`, or name another folder with --run-dir"
        )
