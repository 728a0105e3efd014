"""The scheduler, asked once a tick for all runs together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.backend import TransientError
from sam3ft_launch.slurm.client import ANSWER_S, SlurmClient
from sam3ft_launch.slurm.states import JobView

MARGIN_S = 60.0
"""The login node's clock and the accounting's may differ by so much."""


class Unconfirmed(TransientError):
    """The scheduler has answered; what follows from it is seen at the next look."""


class TickClient(SlurmClient):
    """A site's programs, with one `squeue` a tick for whatever is asked of it.

    All jobs of the user are listed, so that jobs are found by number and by name in the same answer. What the scheduler
    has forgotten is asked of the accounting, once for all of them, until it has said how they ended.

    Attributes:
        squeues: how often `squeue` was called.
        sacctes: how often `sacct` was called.
    """

    def __init__(self, *, environ: Mapping[str, str] | None = None, answer_s: float = ANSWER_S) -> None:
        """Prepare; nothing is asked.

        Args:
            environ: of the programs; None takes this process's.
            answer_s: how long an answer is waited for.
        """
        super().__init__(environ=environ, answer_s=answer_s)
        self.squeues = self.sacctes = 0
        self._jobs: Mapping[str, JobView] | None = None
        self._ended: dict[str, JobView] = {}
        self._watched: Mapping[str, float] = {}
        self._problem = TransientError("the scheduler has not been asked yet")
        self._silence: TransientError | None = None
        self._refusals: dict[str, tuple[int, InvalidConfig]] = {}

    def look(self, watched: Mapping[str, float]) -> bool:
        """Ask for all jobs; False when the scheduler did not answer: then every question is answered that way.

        Args:
            watched: numbers of jobs that are not known to be over, with when they were submitted (seconds since the
                epoch).
        """
        self._watched = watched
        self.squeues += 1
        try:
            jobs = {job.job_id: job for job in self._squeue(["--me"])}
        except (TransientError, InvalidConfig) as problem:
            self._jobs, self._problem = None, TransientError(str(problem))
            return False
        self._ended = {number: job for number, job in self._ended.items() if number in watched}
        missing = {number: at_s for number, at_s in watched.items() if number not in jobs and number not in self._ended}
        self._jobs, self._silence = jobs, None
        if missing:
            self.sacctes += 1
            try:
                found = super().past(list(missing), since_s=min(missing.values()) - MARGIN_S)
            except TransientError as problem:
                self._silence = problem
            else:
                self._ended |= {number: job for number, job in found.items() if job.state.is_over}
        return True

    def submit(self, script: str, *arguments: str, job_name: str = "", after: str = "") -> str:
        """Submit a script and return the number of the job, which is known from now on.

        Raises:
            InvalidConfig: SLURM has refused it, and a look since then has not shown it.
            TransientError: it is not known whether it was accepted.
        """
        name = job_name or _name_in(script)
        if (refusal := self._refusals.get(name)) is not None and refusal[0] < self.squeues:
            del self._refusals[name]
            raise refusal[1]
        try:
            number = super().submit(script, *arguments, job_name=job_name, after=after)
        except InvalidConfig as words:
            self._refusals[name] = self.squeues, words
            raise Unconfirmed(str(words)) from None
        if self._jobs is not None:
            self._jobs = {**self._jobs, number: JobView(number, name, "PENDING", "", 0, "")}
        return number

    def jobs(self, job_ids: Sequence[str]) -> dict[str, JobView]:
        """Return the jobs of the newest answer, by number.

        Raises:
            TransientError: the scheduler did not answer.
        """
        known = self._answer()
        return {number: known[number] for number in job_ids if number in known}

    def named(self, name: str) -> list[JobView]:
        """Return the jobs of the newest answer that have a name.

        Raises:
            TransientError: the scheduler did not answer.
        """
        return [job for job in self._mine() if job.name == name]

    def past(self, job_ids: Sequence[str], *, since_s: float) -> dict[str, JobView]:
        """Return what the accounting has said of jobs that the scheduler has forgotten.

        Raises:
            TransientError: it did not answer, or was not asked about one of them.
        """
        del since_s  # asked for all of them together
        if self._silence is not None:
            raise self._silence
        self._require_watched(job_ids)
        return {number: self._ended[number] for number in job_ids if number in self._ended}

    def known(self, job_id: str) -> JobView | None:
        """Return what the scheduler or the accounting has said of a job; None when neither has."""
        return (self._jobs or {}).get(job_id) or self._ended.get(job_id)

    def require_answer(self) -> None:
        """Make sure that the scheduler has answered.

        Raises:
            TransientError: it has not.
        """
        self._answer()

    def _require_watched(self, job_ids: Iterable[str]) -> None:
        if not all(number in self._watched for number in job_ids):
            raise Unconfirmed("the accounting has not been asked about the job yet; the next look does")

    def _mine(self) -> Iterable[JobView]:
        return self._answer().values()

    def _answer(self) -> Mapping[str, JobView]:
        if self._jobs is None:
            raise self._problem
        return self._jobs

    def _run(self, command: Sequence[str]) -> Any:
        """Call a program; one that is not there for a moment is no verdict: all were there at the start."""
        try:
            return super()._run(command)
        except InvalidConfig as missing:
            raise TransientError(str(missing)) from None


def _name_in(script: str) -> str:
    """Return the job name that a script of ours gives."""
    with open(script, encoding="utf-8") as lines:  # noqa: PTH123 - a few lines of a small file
        return next((line.partition("=")[2].strip() for line in lines if line.startswith("#SBATCH --job-name=")), "")
