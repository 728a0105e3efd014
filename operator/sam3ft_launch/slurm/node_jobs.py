"""The jobs of the nodes beyond the first, where each is a job of its own: submitted, replaced when gone, ended.

Each place has one job at a time. Its name holds the place and how many jobs that place has had, so that a replacement
is not held behind its predecessor, and the same submission made twice is found.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sam3ft_api import names
from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.bad_nodes import MOST_AVOIDED
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.record import NodeJob, SlurmRecord, write
from sam3ft_launch.slurm.states import JobView

LOST_AFTER_S = 60.0
"""Age of a submission from which a job that the scheduler does not know is gone."""
PAUSE_S = 30.0
"""A place whose job has ended is filled again so long after it was filled last, at the earliest."""
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

        Raises:
            TransientError: the scheduler did not answer; what was begun is finished by the next call.
        """
        for slot in range(1, record.places):
            known = next((job for job in record.node_jobs if job.slot == slot), None)
            if known is None:
                record = self._submitted(record, self._next(record, slot, generation=0))
            elif not known.job_id:
                record = self._submitted(record, known)
            elif self._is_gone(known) and known.generation < MOST_GENERATIONS:
                record = self._submitted(record, self._next(record, slot, generation=known.generation + 1))
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
        """End the node jobs that wait, and with `running` the others as well.

        Raises:
            TransientError: the scheduler did not answer.
        """
        for job in self.views(record):
            if not job.state.is_over and (running or not job.nodes):
                self.client.cancel(job.job_id)

    def _next(self, record: SlurmRecord, slot: int, *, generation: int) -> NodeJob:
        name = names.slurm_job_name(record.uid, record.attempt, slot=slot, generation=generation)
        return NodeJob(slot=slot, generation=generation, job_name=name, submitted_unix_s=self.now_s())

    def _submitted(self, record: SlurmRecord, job: NodeJob) -> SlurmRecord:
        """Submit a node's job once: its name is written down first, and looked for before it is submitted."""
        record = self._kept(record, job)
        number = next((found.job_id for found in self.client.named(job.job_name)), "")
        if not number:
            try:
                number = self._handed_in(record, job)
            except InvalidConfig:
                return record  # the first node's job says why, or trains without this one
        return self._kept(record, job.model_copy(update={"job_id": number}))

    def _handed_in(self, record: SlurmRecord, job: NodeJob) -> str:
        script, avoid = str(self.folder.slurm_node_script(record.attempt)), self._avoided()
        try:
            return self.client.submit(script, str(job.slot), job_name=job.job_name, avoid=avoid)
        except InvalidConfig:
            if not avoid:
                raise
            return self.client.submit(script, str(job.slot), job_name=job.job_name)  # no node was left

    def _avoided(self) -> tuple[str, ...]:
        """Nodes on which a launcher has failed twice in a row, as their jobs have written them down."""
        try:
            nodes = self.folder.avoided_nodes.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return ()
        return tuple(sorted(set(nodes)))[:MOST_AVOIDED]

    def _kept(self, record: SlurmRecord, job: NodeJob) -> SlurmRecord:
        others = [known for known in record.node_jobs if known.slot != job.slot]
        jobs = tuple(sorted((*others, job), key=lambda known: known.slot))
        record = record.model_copy(update={"node_jobs": jobs})
        write(self.folder.slurm, record)
        return record

    def _is_gone(self, job: NodeJob) -> bool:
        age_s = self.now_s() - job.submitted_unix_s
        if age_s < PAUSE_S:
            return False
        view = self.client.jobs([job.job_id]).get(job.job_id)
        if view is None or view.name != job.job_name:
            return age_s > LOST_AFTER_S
        return view.state.is_over
