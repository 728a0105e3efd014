"""The folder of one run, on this machine or shared by the nodes of a SLURM site: what lies where, and who may drive it.

runs/blood-cells/
    finetune.yaml      the file as it was given
    config.json        the config document that the trainer reads
    run.json           the supervisor's record: phase, processes, exit code
    slurm.json         instead of it on SLURM: name and number of the job
    attempt-1.sbatch   the batch script; beside it attempt-1.env, readable by its owner alone
    lock               held while a supervisor or its launcher lives
    work/              logs, progress.json, events.jsonl, report.html
    checkpoints/       commits, unless checkpoint.uri says otherwise
    model/             the exported model, unless export.uri says otherwise
"""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sam3ft_api.errors import Fenced, StorageDenied
from sam3ft_api.worker import PROGRESS_FILE

_LOCK_POLL_S = 0.05
RUNS_FOLDER = "runs"
"""Parent, in the current folder, of run folders that are not named with --run-dir."""
DATASET_FILE = "dataset.json"
"""Name, inside the work folder, of the account of the data set."""


def others_may_write(folder: Path) -> bool:
    """Tell whether others than its owner may write into a folder, of which the files are run."""
    return bool(folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths inside one run folder; nothing is touched until a method says so."""

    root: Path

    @property
    def finetune(self) -> Path:
        """Copy of the user's file."""
        return self.root / "finetune.yaml"

    @property
    def config(self) -> Path:
        """The config document."""
        return self.root / "config.json"

    @property
    def record(self) -> Path:
        """The supervisor's record."""
        return self.root / "run.json"

    @property
    def lock(self) -> Path:
        """The lock file; its content is of no meaning."""
        return self.root / "lock"

    @property
    def slurm(self) -> Path:
        """What the login node has written down about the run's job on SLURM."""
        return self.root / "slurm.json"

    @property
    def slurm_job(self) -> Path:
        """The job's own report."""
        return self.work / "slurm-job.json"

    @property
    def kept_log(self) -> Path:
        """How much of the run's log is kept beside its checkpoints, as an agent writes it down."""
        return self.work / "kept-log.json"

    def slurm_script(self, attempt: int) -> Path:
        """Batch script of an attempt."""
        return self.root / f"attempt-{attempt}.sbatch"

    def slurm_node_script(self, attempt: int) -> Path:
        """Batch script of the nodes beyond the first, where each is a job of its own."""
        return self.root / f"attempt-{attempt}-node.sbatch"

    def slurm_environment(self, attempt: int) -> Path:
        """Variables of an attempt, the run's key among them: for this user alone."""
        return self.root / f"attempt-{attempt}.env"

    def slurm_owner(self, job_name: str) -> Path:
        """Number of the one job that an attempt belongs to, written by the job itself."""
        return self.work / f"{job_name}.job"

    def node_work(self, slot: int) -> Path:
        """Work folder of one node of several that share this folder."""
        return self.work if slot == 0 else self.work / f"node-{slot}"

    def node_last_word(self, slot: int) -> Path:
        """The launcher's termination message of one node of several (JSON)."""
        return self.node_work(slot) / self.last_word.name

    @property
    def stop_request(self) -> Path:
        """How much time the one who cancels grants."""
        return self.root / "stop.json"

    @property
    def work(self) -> Path:
        """Logs, progress and scratch state."""
        return self.root / "work"

    @property
    def progress(self) -> Path:
        """Rank 0's progress file."""
        return self.work / PROGRESS_FILE

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.work / "report.html"

    @property
    def dataset(self) -> Path:
        """The check's account of the data set (JSON)."""
        return self.work / DATASET_FILE

    @property
    def scores(self) -> Path:
        """The final scores (JSON)."""
        return self.work / "scores.json"

    @property
    def log(self) -> Path:
        """Output of supervisor, launcher and rank 0 of every attempt, appended."""
        return self.work / "run.log"

    def empty_place(self, attempt: int, slot: int) -> Path:
        """Where it is, this place of an elastic run on SLURM stays empty: its job has failed on node after node."""
        return self.work / f"attempt-{attempt}-node-{slot}.empty"

    def stays_empty(self, attempt: int, slot: int) -> bool:
        """Tell whether that file is there, as far as a network file system can say just now."""
        try:
            return self.empty_place(attempt, slot).exists()
        except OSError:
            return False

    def node_log(self, job_id: str) -> Path:
        """Output of one more node's job on SLURM, which takes `%j` for its number.

        Each has its own: what two machines append to one file of a network file system, they write over each other.
        """
        return self.work / f"node-{job_id}.log"

    @property
    def worker_logs(self) -> Path:
        """Folder of the workers' logs, `rank-N.log`."""
        return self.work / "logs"

    @property
    def coordinator_log(self) -> Path:
        """Output of the coordinator."""
        return self.work / "coordinator.log"

    @property
    def coordinator_port(self) -> Path:
        """Where the coordinator says at which ports it listens (JSON)."""
        return self.work / "coordinator.json"

    @property
    def last_word(self) -> Path:
        """The launcher's termination message (JSON)."""
        return self.work / "termination.json"

    @property
    def checkpoints(self) -> Path:
        """Default checkpoint prefix."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """Default place of the exported model."""
        return self.root / "model"

    def create(self) -> None:
        """Make the folder and its work folder, private to this user where they are new.

        Raises:
            StorageDenied: the place is no folder, or cannot be written.
        """
        try:
            # `parents` would make the folders above with the umask's mode.
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(exist_ok=True, mode=0o700)
            self.work.mkdir(exist_ok=True, mode=0o700)
        except (FileExistsError, NotADirectoryError) as error:
            raise StorageDenied(
                f"run folder {self.root}: {error.filename} is a file; name another folder with --run-dir"
            ) from error
        except OSError as error:
            raise StorageDenied(
                f"run folder {self.root} cannot be made: {error.strerror}; name a writable folder with --run-dir"
            ) from error

    def remove_state(self) -> None:
        """Remove everything but checkpoints and model; the folder too when nothing is left. Hold the lock."""
        shutil.rmtree(self.work, ignore_errors=True)
        of_attempts = [path for form in ("sbatch", "env") for path in self.root.glob(f"attempt-*.{form}")]
        for path in (self.finetune, self.config, self.record, self.slurm, self.stop_request, self.lock, *of_attempts):
            path.unlink(missing_ok=True)
        try:
            self.root.rmdir()
        except OSError:
            return  # checkpoints, a model or the user's own files are in it

    @contextmanager
    def driving(self, *, wait_s: float = 0.0, is_hopeless: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Hold the right to drive this folder; yields the lock's descriptor, to be inherited by the launcher.

        The kernel frees the lock with the last process that holds the descriptor, so no crash leaves it behind, and a
        new supervisor cannot start while an old launcher still dies.

        Args:
            wait_s: how long to wait for a present holder to go, seconds.
            is_hopeless: asked while waiting; True ends the wait, because the holder will stay.

        Raises:
            Fenced: another process drives the folder.
        """
        descriptor = self._lock_within(wait_s, is_hopeless)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock_within(self, wait_s: float, is_hopeless: Callable[[], bool]) -> int:
        give_up_at = time.monotonic() + wait_s
        while (descriptor := self._try_lock()) is None:
            if time.monotonic() >= give_up_at or is_hopeless():
                raise Fenced(
                    f"run folder {self.root} is driven by another process; follow it with `sam3ft logs -f {self.root}`,"
                    f" stop it with `sam3ft cancel {self.root}`, or name another folder with --run-dir"
                )
            time.sleep(_LOCK_POLL_S)
        return descriptor

    def _try_lock(self) -> int | None:
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `remove_state` may have unlinked the file between open and flock: then the lock guards nothing.
            current = os.path.samestat(os.fstat(descriptor), self.lock.stat())
        except (BlockingIOError, FileNotFoundError):
            current = False
        except OSError as error:
            os.close(descriptor)
            raise StorageDenied(
                f"run folder {self.root} cannot be locked: {error.strerror}; its file system must know flock(2) "
                "(Lustre: mount with -o flock; NFS: with lockd), or name another folder with --run-dir"
            ) from error
        if current:
            return descriptor
        os.close(descriptor)
        return None
