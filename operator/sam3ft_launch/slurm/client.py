"""SLURM by its own programs, as every login node has them: text that is formatted, because JSON differs by version."""

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

from sam3ft_api import names
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.text import without_controls
from sam3ft_launch.backend import TransientError
from sam3ft_launch.slurm.states import JobState, JobView

_log = logging.getLogger(__name__)

ANSWER_S = 60.0
"""A scheduler that is away blocks its programs for about 30 s."""
_FIELDS = ("JobID", "Name", "State", "Reason", "RestartCnt", "NodeList")
# A width of 256 a field: the default of 20 would cut names.
_FORMAT = ",".join(f"{field}:256" for field in _FIELDS)
_SACCT_FIELDS = "JobIDRaw,JobName,State,Reason,NodeList"
_MAX_WORDS = 600
_NOT_HERE = "{} is not on this machine; run on a login node of the site, where SLURM's programs are"
_CHANGES_ANSWERS = re.compile(r"(SBATCH|SQUEUE|SCANCEL|SACCT|SLURM)_(?!CONF$|JWT$|CLUSTERS$)")
"""Variables of a user's, or of a job in which this runs, that would change what is submitted or shown."""
_AWAY = re.compile(
    r"timed out|unable to contact|connection (?:refused|reset|failure)|munge|try again|not responding|standby mode"
    r"|zero bytes",
    re.IGNORECASE,
)
"""Words of a program that could not reach the scheduler; whatever else it says is the scheduler's own answer."""


class SlurmClient:
    """The programs of one site; every call is bounded in time."""

    def __init__(self, *, environ: Mapping[str, str] | None = None, answer_s: float = ANSWER_S) -> None:
        """Prepare; nothing is asked.

        Args:
            environ: of the programs; None takes this process's.
            answer_s: how long an answer is waited for.
        """
        given = os.environ if environ is None else environ
        self._environ = {name: value for name, value in given.items() if not _CHANGES_ANSWERS.match(name)}
        self._environ["LC_ALL"] = "C"
        self._answer_s = answer_s

    def require_programs(self) -> None:
        """Make sure that this machine has SLURM's programs.

        Raises:
            InvalidConfig: one is missing.
        """
        for name in ("sbatch", "squeue", "scancel"):
            if shutil.which(name, path=self._environ.get("PATH")) is None:
                raise InvalidConfig(_NOT_HERE.format(name))

    def submit(self, script: str, *arguments: str, job_name: str = "", after: str = "") -> str:
        """Submit a script and return the number of the job.

        Args:
            script: absolute path.
            arguments: of the script.
            job_name: in place of the script's own; empty for that.
            after: number of a job that has to begin before; empty for none.

        Raises:
            InvalidConfig: SLURM refuses it, and says so.
            TransientError: it is not known whether it was accepted.
        """
        options = [f"--job-name={job_name}"] if job_name else []
        options += [f"--dependency=singleton,after:{after}", "--nice=100"] if after else []
        code, out, err = self._run(["sbatch", "--parsable", *options, script, *arguments])
        number = out.strip().partition(";")[0]
        if code == 0 and number.isdecimal():
            return number
        words = _words(err) or _words(out)
        if code != 0 and "error:" in err and not _AWAY.search(err):
            raise InvalidConfig(f"SLURM refuses the job: {words}")
        raise TransientError(f"sbatch did not say whether it took the job (code {code}): {words}")

    def named(self, name: str) -> list[JobView]:
        """Return the jobs of this user that have a name, ended ones that are still known with them.

        Raises:
            TransientError: the scheduler did not answer.
        """
        return self._squeue(["--me", "--name", name])

    def living_named(self, name: str) -> list[JobView]:
        """Return those of the jobs that have a name which are not over, the ones that run first.

        Raises:
            TransientError: the scheduler did not answer.
        """
        living = (job for job in self.named(name) if not job.state.is_over)
        return sorted(living, key=lambda job: job.state is not JobState.RUNNING)

    def living_of(self, uid: str) -> list[JobView]:
        """Return the jobs of a run that are not over, whatever their attempt.

        Raises:
            TransientError: the scheduler did not answer.
        """
        start = names.slurm_job_prefix(uid)
        return [job for job in self._mine() if job.name.startswith(start) and not job.state.is_over]

    def jobs(self, job_ids: Sequence[str]) -> dict[str, JobView]:
        """Return the jobs that the scheduler still knows, by number; one call for all of them.

        Raises:
            TransientError: the scheduler did not answer.
        """
        if not job_ids:
            return {}
        return {job.job_id: job for job in self._squeue(["--jobs", ",".join(job_ids)])}

    def past(self, job_ids: Sequence[str], *, since_s: float) -> dict[str, JobView]:
        """Return what the accounting says of jobs that the scheduler has forgotten; nothing on a site without it.

        Args:
            job_ids: of the jobs.
            since_s: when the first was submitted, seconds since the epoch: without it all history is read.

        Raises:
            TransientError: it did not answer.
        """
        if not job_ids or shutil.which("sacct", path=self._environ.get("PATH")) is None:
            return {}
        command = [
            *("sacct", "-X", "-n", "-P", "--delimiter=|", "-o", _SACCT_FIELDS),
            *("-S", time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since_s)), "-j", ",".join(job_ids)),
        ]
        code, out, err = self._run(command)
        if code != 0:
            if "disabled" in err:
                return {}
            raise TransientError(f"sacct: {_words(err)}")
        found: dict[str, JobView] = {}
        for line in out.splitlines():
            fields = line.split("|")
            if len(fields) == 5:  # the last record of a number wins: a requeued job has several
                number, name, word, reason, nodes = fields
                found[number] = JobView(number, name, word.split(" ")[0], _reason(reason), 0, _reason(nodes))
        return found

    def cancel(self, job_id: str) -> None:
        """End a job now; nothing happens when it has ended.

        Raises:
            TransientError: the scheduler did not answer.
        """
        self._quiet(["scancel", "--quiet", job_id])

    def kill(self, job_id: str) -> None:
        """End a job without the time that it has for saving; nothing happens when it has ended.

        Raises:
            TransientError: the scheduler did not answer.
        """
        self._quiet(["scancel", "--quiet", "--full", "--signal=KILL", job_id])
        self.cancel(job_id)

    def _mine(self) -> Iterable[JobView]:
        """All jobs of this user that are still known."""
        return self._squeue(["--me"])

    def _squeue(self, selection: Sequence[str]) -> list[JobView]:
        code, out, err = self._run(["squeue", "-h", "-a", "--states=all", "-O", _FORMAT, *selection])
        if code != 0:
            if "Invalid job id" in err:
                return []
            raise TransientError(f"squeue: {_words(err)}")
        return [job for line in out.splitlines() if (job := _parse(line)) is not None]

    def _quiet(self, command: Sequence[str]) -> None:
        code, _, err = self._run(command)
        if code != 0 and _AWAY.search(err):
            raise TransientError(f"{command[0]}: {_words(err)}")
        if code != 0:
            _log.debug("%s ended with %d: %s", command[0], code, _words(err))

    def _run(self, command: Sequence[str]) -> tuple[int, str, str]:
        try:
            done = subprocess.run(
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._answer_s,
                check=False,
            )
        except FileNotFoundError:
            raise InvalidConfig(_NOT_HERE.format(command[0])) from None
        except OSError as error:
            raise TransientError(f"{command[0]} could not be started: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise TransientError(f"{command[0]} did not answer within {self._answer_s:g} s") from None
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _parse(line: str) -> JobView | None:
    # Every field is padded to its width, so that a space inside a name moves nothing.
    fields = [line[start : start + 256].strip() for start in range(0, 256 * len(_FIELDS), 256)]
    number, name, word, reason, restarts, nodes = fields
    if not number or not word:
        return None
    return JobView(number, name, word, _reason(reason), int(restarts) if restarts.isdecimal() else 0, _reason(nodes))


def _reason(text: str) -> str:
    return "" if text in ("None", "(null)", "None assigned", "n/a") else without_controls(text, instead=" ")


def _words(text: str) -> str:
    return without_controls(" ".join(text.split()), instead=" ")[:_MAX_WORDS]
