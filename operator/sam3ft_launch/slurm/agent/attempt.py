"""One attempt of one run on this site: checked, submitted once, watched, and ended; what is told of it.

Nothing is told to be over but what is: an attempt that is closed while its job runs would be followed by a second job.
So a folder that cannot be read, a scheduler that is away, and a job that is nowhere for a moment end nothing.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from sam3ft_api import names
from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.spec_workers import WorkersSpec
from sam3ft_api.status import DatasetStatus, SlurmStatus
from sam3ft_api.termination import Termination
from sam3ft_launch.backend import Handle, RunState, TransientError
from sam3ft_launch.folder.last_word import read_last_word
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import read_stop_request
from sam3ft_launch.slurm.agent import report
from sam3ft_launch.slurm.agent.checks import Checks
from sam3ft_launch.slurm.agent.planning import plan_of
from sam3ft_launch.slurm.agent.scheduler import TickClient
from sam3ft_launch.slurm.agent.wanted import SiteRun
from sam3ft_launch.slurm.backend import SlurmBackend
from sam3ft_launch.slurm.node_jobs import NodeJobs
from sam3ft_launch.slurm.own_job import job_number
from sam3ft_launch.slurm.record import SlurmRecord, read_record, read_report
from sam3ft_launch.slurm.settings import SlurmSettings
from sam3ft_launch.slurm.states import JobState

_log = logging.getLogger(__name__)

BELIEVED_AFTER_S = 60.0
"""A job that has ended without its own last word is given so long: a network file system may show it late, and a
scheduler says an end before it puts a job back into the queue."""
_NEVER_SUBMITTED = "Stopped before a job was submitted; nothing was lost."
_WAITS = frozenset({JobState.QUEUED, JobState.HELD, JobState.REQUEUED, JobState.SUSPENDED})


@dataclass(slots=True)
class Attempts:
    """The attempts of a site's runs, in their folders.

    Attributes:
        client: of the scheduler, asked once a tick.
        settings: of the site.
        checks: of data sets.
        environ: of the jobs: what they need to reach their stores.
        clock: monotonic seconds.
    """

    client: TickClient
    settings: SlurmSettings
    checks: Checks
    environ: Mapping[str, str]
    clock: Callable[[], float] = time.monotonic
    _wordless: dict[str, float] = field(default_factory=dict)

    def run(
        self, run: SiteRun, folder: RunDir, told: SlurmStatus, intend: Callable[[SlurmStatus], bool]
    ) -> SlurmStatus:
        """Have the attempt's job run, and return what is to be told: check, intent, submission, then how it is.

        Args:
            run: as it was read; its attempt is open.
            folder: of the run; it exists and is the run's.
            told: the beginnings of the report: site, attempt, folder.
            intend: tells a report now; False when the resource is gone.

        Raises:
            TransientError: the scheduler does not answer.
            Sam3ftError, OSError: the folder cannot be read or written.
        """
        record = read_record(folder.slurm)
        if record is not None and record.attempt == run.attempt:
            return self._begun(run, folder, told, record)
        if self.checks.must_wait(run.uid, _asked(run)):
            return _not_checked(told, "waits for its check")
        return self._submitted(run, folder, told, intend)

    def _submitted(
        self, run: SiteRun, folder: RunDir, told: SlurmStatus, intend: Callable[[SlurmStatus], bool]
    ) -> SlurmStatus:
        """Check and submit, as far as it goes now."""
        backend = self._backend(folder)
        try:
            plan = plan_of(run, folder=folder, settings=self.settings, environ=self.environ)
            submission = backend.render(plan)  # before the check: what SLURM cannot be asked for costs no time
        except InvalidConfig as refusal:
            return report.over_without_job(told, int(refusal.code), str(refusal))
        checked = self.checks.of(plan, folder, turn=_turn(run), asked=_asked(run))
        if checked is None:
            has_begun = self.checks.has_begun(run.uid)
            return _not_checked(told, "is being checked on the login node" if has_begun else "waits for its check")
        if checked.code != ExitCode.SUCCEEDED:
            return report.over_without_job(told, checked.code, checked.message, dataset=checked.dataset)
        told = told.model_copy(update={"intent": submission.job_name, "dataset": checked.dataset})
        if not intend(told):
            return told  # the next list says what has become of the resource
        try:
            backend.submit(submission)
        except InvalidConfig as refusal:
            _log.warning("%s/%s: %s", run.namespace, run.name, refusal)  # it stands in the record
        record = read_record(folder.slurm)
        return told if record is None else self._observed(run, folder, told, record)

    def stop(self, run: SiteRun, folder: RunDir, told: SlurmStatus, *, is_now: bool) -> SlurmStatus:
        """Have the attempt save and end, or end at once, and return what is to be told.

        Args:
            run: as it was read; its attempt is open.
            folder: of the run.
            told: the beginnings of the report.
            is_now: without time to save.

        Raises:
            TransientError: the scheduler does not answer.
            Sam3ftError, OSError: the folder cannot be read or written; what was to end at once was cancelled before.
        """
        self.checks.end(run.uid)
        if is_now:
            self.cancel_all(run.uid)  # before any file is touched: a disk may be full
        record = read_record(folder.slurm)
        if record is None or record.attempt != run.attempt:
            return self._without_record(run, told)
        handle = self._handle(run.uid, record.attempt, folder)
        asked = read_stop_request(folder.stop_request, attempt=record.attempt)
        job = self.client.known(job_number(folder, record))
        if is_now or asked is None or (job is not None and job.state in _WAITS):
            self._backend(folder).cancel(handle, grace_s=0.0 if is_now else _grace_s(run))
        return self._observed(run, folder, told, record)

    def cancel_all(self, uid: str) -> int:
        """Cancel every job of a run that is not over; returns how many there were.

        Raises:
            TransientError: the scheduler does not answer.
        """
        living = self.client.living_of(uid)
        for job in living:
            self.client.cancel(job.job_id)
        return len(living)

    def end_node_jobs(self, folder: RunDir) -> None:
        """Cancel the jobs of single nodes that have outlived the run's own.

        Raises:
            TransientError: the scheduler does not answer.
        """
        with suppress(StorageDenied):  # what cannot be read has been told
            if (record := read_record(folder.slurm)) is not None:
                NodeJobs(folder, self.client).cancel(record, running=True)

    def _without_record(self, run: SiteRun, told: SlurmStatus) -> SlurmStatus:
        """The folder knows of no submission; whether there is a job all the same, its name says."""
        name = names.slurm_job_name(run.uid, run.attempt)
        living = self.client.living_named(name)
        if not living:
            return report.over_without_job(told, int(ExitCode.INTERRUPTED), _NEVER_SUBMITTED)
        self.cancel_all(run.uid)
        job = living[0]
        message = f"job {job.job_id} has lost its run folder and is ended"
        return told.model_copy(update={"intent": name, "job_id": job.job_id, "state": job.word, "message": message})

    def _begun(self, run: SiteRun, folder: RunDir, told: SlurmStatus, record: SlurmRecord) -> SlurmStatus:
        """Go on with an attempt that was written down: what lies in the folder is submitted, and nothing new."""
        if not record.job_id and not record.refused:
            try:
                self._backend(folder).submit_again(self._handle(run.uid, record.attempt, folder))
            except InvalidConfig as refusal:
                _log.warning("%s/%s: %s", run.namespace, run.name, refusal)  # it stands in the record
            record = read_record(folder.slurm) or record
        return self._observed(run, folder, told, record)

    def _observed(self, run: SiteRun, folder: RunDir, told: SlurmStatus, record: SlurmRecord) -> SlurmStatus:
        observed = self._backend(folder).observe(self._handle(run.uid, record.attempt, folder))
        number = job_number(folder, record)
        told = told.model_copy(update={"intent": record.job_name, "job_id": number, "dataset": _dataset(folder, run)})
        job = self.client.known(number)
        if not observed.state.is_terminal:
            self.client.require_answer()  # a backend goes on with what it has seen last
            self._wordless.pop(run.uid, None)
            return report.seen(told, observed, job, nodes=self._mended(run, folder, record))
        if observed.state is not RunState.GONE and not self._is_late(run, folder, record, observed.reason):
            self._wordless.pop(run.uid, None)
            return report.seen(told, observed, job, nodes=record.nodes)
        since_s = self._wordless.setdefault(run.uid, self.clock())
        if self.clock() - since_s < BELIEVED_AFTER_S:
            waiting = f"job {number} has ended; its last word is waited for"
            return told.model_copy(update={"state": job.word if job is not None else "UNKNOWN", "message": waiting})
        del self._wordless[run.uid]
        if observed.state is RunState.GONE:
            return report.lost(told, observed)
        return report.seen(told, observed, job, nodes=record.nodes)

    def _mended(self, run: SiteRun, folder: RunDir, record: SlurmRecord) -> int:
        """Fill the places whose jobs are gone; returns how many nodes run."""
        if record.places == 1:
            return record.nodes
        try:
            self._backend(folder).mend(self._handle(run.uid, record.attempt, folder))
        except TransientError as silence:  # the run itself is well
            _log.warning("%s/%s: %s", run.namespace, run.name, silence)
        record = read_record(folder.slurm) or record
        return 1 + sum(job.state is JobState.RUNNING for job in NodeJobs(folder, self.client).views(record))

    def _is_late(self, run: SiteRun, folder: RunDir, record: SlurmRecord, reason: str) -> bool:
        """Tell whether an end may yet be another: SLURM says it, and the job itself has not."""
        if record.refused or reason in (str(JobState.CANCELLED), "Interrupted"):
            return False  # nothing that is cancelled comes back
        said = read_report(folder.slurm_job, attempt=run.attempt)
        return said is None or said.code is None

    def _backend(self, folder: RunDir) -> SlurmBackend:
        return SlurmBackend(folder.root.parent, run_dir=folder.root, settings=self.settings, client=self.client)

    @staticmethod
    def _handle(uid: str, attempt: int, folder: RunDir) -> Handle:
        return Handle(SlurmBackend.name, uid, attempt, str(folder.root))


def _not_checked(told: SlurmStatus, doing: str) -> SlurmStatus:
    return told.model_copy(update={"checking": True, "message": f"The data set {doing}."})


def _asked(run: SiteRun) -> object:
    """What the plan of an attempt follows from."""
    return run.attempt, run.content


def _grace_s(run: SiteRun) -> float:
    workers = run.spec.workers if run.spec is not None else WorkersSpec()
    return float(workers.termination_grace_period_seconds)


def _turn(run: SiteRun) -> int:
    """The data set is checked once, and again after each raise of `retry`: what was refused may have been mended."""
    return run.spec.retry if run.spec is not None else 0


def _dataset(folder: RunDir, run: SiteRun) -> DatasetStatus | None:
    word: Termination | None = read_last_word(folder.work / f"check-{_turn(run)}.json")
    return word.dataset if word is not None else None
