"""One tick of the agent: read what is wanted, look at the scheduler once, have jobs run or end, and tell.

Every tick begins from what lies in the run folders, at the scheduler and in the resources, so an agent that dies at any
moment goes on where it was. What one run has in its way is told for that run, and holds up no other.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from sam3ft_api.errors import Sam3ftError, StorageDenied
from sam3ft_api.status import SlurmStatus, moment
from sam3ft_launch.backend import TransientError
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.slurm.agent import report
from sam3ft_launch.slurm.agent.attempt import Attempts
from sam3ft_launch.slurm.agent.checks import Checks
from sam3ft_launch.slurm.agent.cluster import SiteCluster
from sam3ft_launch.slurm.agent.folders import OwnerNote, claim, folder_of, noted
from sam3ft_launch.slurm.agent.kept_logs import KeptLogs
from sam3ft_launch.slurm.agent.scheduler import TickClient, Unconfirmed
from sam3ft_launch.slurm.agent.wanted import SiteRun, Wish, site_run, wish_of
from sam3ft_launch.slurm.own_job import job_number
from sam3ft_launch.slurm.record import read_record

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class TickResult:
    """What a tick has done.

    Attributes:
        runs: resources of the site.
        live: jobs that may still be there.
        told: reports sent.
        problems: runs with something in their way.
        answered: the scheduler has answered.
        squeues: how often `squeue` was called since the agent began.
        sacctes: how often `sacct` was called since the agent began.
    """

    runs: int = 0
    live: int = 0
    told: int = 0
    problems: int = 0
    answered: bool = True
    squeues: int = 0
    sacctes: int = 0

    def figures(self) -> dict[str, int | bool]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(slots=True)
class SiteAgent:
    """The agent of one site and namespace. For the main thread alone.

    Attributes:
        cluster: where the resources are.
        client: of the scheduler.
        attempts: what becomes of each.
        root: absolute folder of the run folders, shared by all nodes.
        account: uid of the agent's ServiceAccount, by which its folders are known.
        logs: what runs say, kept where people far from the site read it.
    """

    cluster: SiteCluster
    client: TickClient
    attempts: Attempts
    root: Path
    account: str
    logs: KeptLogs
    _live: dict[str, RunDir] = field(default_factory=dict)
    _sent: dict[str, SlurmStatus] = field(default_factory=dict)
    _sent_s: dict[str, float] = field(default_factory=dict)
    _is_scanned: bool = False

    @property
    def checks(self) -> Checks:
        """The checks of data sets."""
        return self.attempts.checks

    @property
    def is_busy(self) -> bool:
        """Tell whether something goes on that ends with this process: a check, or the keeping of a log."""
        return bool(self.checks.count) or self.logs.is_busy

    def tick(self) -> TickResult:
        """Do everything once.

        Raises:
            ApiProblem: the resources could not be listed, so nothing was done; jobs go on.
        """
        bodies = self.cluster.resources()
        runs = [run for body in bodies if (run := site_run(body, site=self.cluster.site)) is not None]
        there = {str((body.get("metadata") or {}).get("uid")) for body in bodies}
        self._sent.clear()  # the list has just said what stands there
        self._sent_s = {uid: at_s for uid, at_s in self._sent_s.items() if uid in there}
        self._scan()
        result = TickResult(runs=len(runs), answered=self.client.look(self._watched()))
        for run in runs:
            self._guarded(result, f"{run.namespace}/{run.name}", partial(self._serve, run, result))
        for uid, folder in [(uid, folder) for uid, folder in self._live.items() if uid not in there]:
            self._guarded(result, str(folder.root), partial(self._sweep, uid, folder))
        self._guarded(result, "the logs", lambda: self.logs.tick(self._live.values()))
        result.live, result.squeues, result.sacctes = len(self._live), self.client.squeues, self.client.sacctes
        return result

    def _guarded(self, result: TickResult, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except (ApiProblem, Sam3ftError, OSError) as problem:
            result.problems += 1
            _log.warning("%s: %s", what, problem)
        except Exception:  # noqa: BLE001 - a defect that one run shows must not hold up the others
            result.problems += 1
            _log.exception("%s", what)

    def _scan(self) -> None:
        """Find, once, the folders of earlier agents whose jobs may still be there."""
        if self._is_scanned:
            return
        for folder, note in noted(self.root):
            is_ours = bool(self.account) and (note.account, note.site) == (self.account, self.cluster.site)
            if is_ours and _may_have_job(folder):
                self._live[note.uid] = folder
            elif is_ours:
                self.logs.finish(folder)  # an earlier agent may not have come to it
        self._is_scanned = True

    def _watched(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for folder in self._live.values():
            try:
                record = read_record(folder.slurm)
                number = job_number(folder, record) if record is not None else ""
            except (StorageDenied, TransientError):
                continue  # whoever serves the run says so
            if record is not None and number:
                found[number] = record.submitted_unix_s
        return found

    def _serve(self, run: SiteRun, result: TickResult) -> None:
        wish, last = wish_of(run, now_s=self.cluster.now_s()), self._last(run)
        if wish is Wish.NOTHING or (last is not None and last.exit_code is not None):
            self._forget(run.uid)  # what was told to be over stays over; the operator closes it
            return
        folder = folder_of(self.root, run)
        told = SlurmStatus(site=self.cluster.site, attempt=run.attempt, folder=str(folder.root))
        try:
            told = self._driven(run, folder, told, wish, result)
        except TransientError as problem:
            _log.warning("%s/%s: %s", run.namespace, run.name, problem)
            told = (last or told).model_copy(update={"answers": isinstance(problem, Unconfirmed)})
        except (Sam3ftError, OSError) as problem:
            # A folder that cannot be read says nothing about a job, which may be there: nothing is over.
            _log.warning("%s/%s: %s", run.namespace, run.name, problem)
            told = (last or told).model_copy(update={"message": report.text(str(problem), report.MAX_MESSAGE_CHARS)})
        if self._tell(run, told, result) and told.exit_code is not None:
            self._forget(run.uid)

    def _driven(self, run: SiteRun, folder: RunDir, told: SlurmStatus, wish: Wish, result: TickResult) -> SlurmStatus:
        last = self._last(run)
        if last is not None and last.folder not in ("", told.folder) and (last.intent or last.job_id):
            said = f"attempt {run.attempt} lies in {last.folder}; start the agent with --runs for that folder"
            return last.model_copy(update={"message": said})
        note = OwnerNote(
            account=self.account, namespace=run.namespace, name=run.name, uid=run.uid, site=self.cluster.site
        )
        self._live.setdefault(run.uid, folder)
        if wish is Wish.END:
            return self.attempts.stop(run, folder, told, is_now=True)
        claim(folder, note)
        if wish is Wish.STOP:
            return self.attempts.stop(run, folder, told, is_now=False)
        return self.attempts.run(run, folder, told, lambda intent: self._tell(run, intent, result))

    def _sweep(self, uid: str, folder: RunDir) -> None:
        """End the jobs of a resource that is gone."""
        self.checks.end(uid)
        if number := self.attempts.cancel_all(uid):
            _log.warning("%s: its resource is gone; %d of its jobs ended", folder.root, number)
            return
        self._forget(uid)

    def _forget(self, uid: str) -> None:
        """Nothing of a run is left on the site: jobs of single nodes that outlive the run's, and its credentials."""
        self.checks.end(uid)
        folder = self._live.get(uid)
        if folder is None:
            return
        self.attempts.end_node_jobs(folder)
        del self._live[uid]  # not before: what the scheduler did not answer is asked again
        self.logs.finish(folder)
        for path in folder.root.glob("attempt-*.env"):
            path.unlink(missing_ok=True)

    def _last(self, run: SiteRun) -> SlurmStatus | None:
        """Return what was told last of the open attempt."""
        told = self._sent.get(run.uid) or run.status.slurm
        return told if told is not None and told.attempt == run.attempt else None

    def _tell(self, run: SiteRun, told: SlurmStatus, result: TickResult) -> bool:
        """Send a report where it is news; False when the resource is gone, or has not taken it."""
        now_s = self.cluster.now_s()
        if not report.is_worth_sending(self._last(run), told, since_s=now_s - self._sent_s.get(run.uid, 0.0)):
            return True
        timed = told.model_copy(update={"time": moment(now_s)})
        if not self.cluster.tell(run, timed):
            return False
        result.told += 1
        self._sent[run.uid], self._sent_s[run.uid] = timed, now_s
        _log.info("%s/%s: %s", run.namespace, run.name, line_of(told))
        return True


def line_of(told: SlurmStatus) -> str:
    """Return a report as one line for the log."""
    words = [f"attempt {told.attempt}"]
    if told.job_id:
        words.append(f"job {told.job_id} {told.state}")
    if told.progress is not None:
        words.append(f"step {told.progress.step}/{told.progress.total_steps}")
    if told.exit_code is not None:
        words.append(f"ended with {told.exit_code} {told.ending}")
    return ": ".join([", ".join(words), *([told.message] if told.message else [])])


def _may_have_job(folder: RunDir) -> bool:
    """Tell whether the folder's job may still be there: its credentials are removed with its end."""
    try:
        record = read_record(folder.slurm)
    except StorageDenied:
        return True
    return record is not None and not record.refused and folder.slurm_environment(record.attempt).exists()
