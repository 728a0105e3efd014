"""The jobs of the nodes beyond the first, where each is a job of its own: submitted, replaced when gone, ended.

Each place has one job at a time. Its name holds the place and how many jobs that place has had, so that a replacement
is not held behind its predecessor, and the same submission made twice is found. None begins before the first node's
job has: it would hold a node for nothing, perhaps the one that the first job needs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sam3ft_api import names
from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.backend import TransientError
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.record import NodeJob, SlurmRecord, write
from sam3ft_launch.slurm.states import JobView

GONE_AFTER_S = 60.0
"""A job that is over, or that nobody knows, is believed to be gone so long after it was first seen so: a scheduler says
an end before it puts a job back into the queue."""
REFUSED_PAUSE_S = 300.0
"""Before a job that SLURM has refused is tried again."""
MOST_GENERATIONS = 1000


@dataclass(frozen=True, slots=True)
class NodeJobs:
    """The node jobs of one run, in its folder. Hold the folder's lock while they are filled.

    Attributes:
        folder: of the run.
        client: of the scheduler.
        now_s: seconds since the epoch.
    """

    folder: RunDir
    client: SlurmClient
    now_s: Callable[[], float] = time.time

    def fill(self, record: SlurmRecord) -> SlurmRecord:
        """Have a job for every place whose job is gone, or has never been; returns the record as it stands then.

        Args:
            record: of the run, whose first job has a number.

        Raises:
            TransientError: the scheduler did not answer for one or more; what was begun is finished by the next call.
        """
        problem: TransientError | None = None
        for slot in range(1, record.places):
            try:
                record = self._filled(record, slot)
            except TransientError as silence:
                problem = silence
        if problem is not None:
            raise problem
        return record

    def views(self, record: SlurmRecord) -> list[JobView]:
        """Return what the scheduler says of the node jobs that it knows.

        Raises:
            TransientError: the scheduler did not answer.
        """
        numbers = [job.job_id for job in record.node_jobs if job.job_id]
        ours = {job.job_name for job in record.node_jobs}
        return [job for job in self.client.jobs(numbers).values() if job.name in ours]

    def cancel(self, record: SlurmRecord, *, running: bool) -> None:
        """End the node jobs that wait, and with `running` the others as well, also those that no record names.

        Raises:
            TransientError: the scheduler did not answer.
        """
        for job in self.living(record):
            if running or not job.nodes:
                self.client.cancel(job.job_id)

    def living(self, record: SlurmRecord) -> list[JobView]:
        """Return the run's jobs that are not over, but for the first node's.

        Raises:
            TransientError: the scheduler did not answer.
        """
        if record.places == 1:
            return []
        return [job for job in self.client.living_of(record.uid) if job.name != record.job_name]

    def _filled(self, record: SlurmRecord, slot: int) -> SlurmRecord:
        known = next((job for job in record.node_jobs if job.slot == slot), None)
        if known is None:
            return self._submitted(record, self._next(record, slot, generation=0))
        if not known.job_id:
            waits = known.refused and self.now_s() - known.submitted_unix_s < REFUSED_PAUSE_S
            return record if waits else self._submitted(record, known)
        view = self.client.jobs([known.job_id]).get(known.job_id)
        if view is not None and view.name == known.job_name and not view.state.is_over:
            return record if known.over_unix_s is None else self._kept(record, known, over_unix_s=None)
        if known.over_unix_s is None:
            return self._kept(record, known, over_unix_s=self.now_s())
        stays_empty = known.generation >= MOST_GENERATIONS or self.folder.stays_empty(record.attempt, slot)
        if stays_empty or self.now_s() - known.over_unix_s < GONE_AFTER_S:
            return record
        self.client.cancel(known.job_id)  # should it come back after all
        return self._submitted(record, self._next(record, slot, generation=known.generation + 1))

    def _next(self, record: SlurmRecord, slot: int, *, generation: int) -> NodeJob:
        name = names.slurm_job_name(record.uid, record.attempt, slot=slot, generation=generation)
        return NodeJob(slot=slot, generation=generation, job_name=name, submitted_unix_s=self.now_s())

    def _submitted(self, record: SlurmRecord, job: NodeJob) -> SlurmRecord:
        """Submit a node's job once: its name is written down first, and looked for before it is submitted."""
        record = self._kept(record, job)
        number = next((found.job_id for found in self.client.named(job.job_name)), "")
        if not number:
            script = str(self.folder.slurm_node_script(record.attempt))
            try:
                number = self.client.submit(script, str(job.slot), job_name=job.job_name, after=record.job_id)
            except InvalidConfig as refusal:  # the run trains without this node
                return self._kept(record, job, refused=str(refusal), submitted_unix_s=self.now_s())
        return self._kept(record, job, job_id=number, refused="")

    def _kept(self, record: SlurmRecord, job: NodeJob, **changes: object) -> SlurmRecord:
        others = [known for known in record.node_jobs if known.slot != job.slot]
        jobs = tuple(sorted((*others, job.model_copy(update=changes)), key=lambda known: known.slot))
        record = record.model_copy(update={"node_jobs": jobs})
        write(self.folder.slurm, record)
        return record
