"""`python -m sam3ft_launch.slurm.verdict`: what follows from the launchers' end; one line on standard output.

    again SECONDS     start the launchers again, in the same job
    requeue           put the job back into the queue; the checkpoint is saved
    end CODE          the attempt is over

It is also written into the job's report, which outlives SLURM's memory of the job.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.plan import RestartBudget
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.ends import PastEnd
from sam3ft_launch.folder.last_word import read_commit_step, read_last_word
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import read_stop_request
from sam3ft_launch.restart import EndRun, LauncherEnd, decide_restart
from sam3ft_launch.slurm.arguments import parser_of
from sam3ft_launch.slurm.record import JobReport, read_report, write

NUM_ENDS_KEPT = 100
_LEAVING = frozenset({"COMPLETING", "CANCELLED"})
"""Words of a job that runs a step while it is being cancelled."""


@dataclass(frozen=True, slots=True)
class Next:
    """What the script does.

    Attributes:
        line: that is printed.
        code: of the attempt when it is over; None otherwise.
        message: why, for people.
    """

    line: str
    code: int | None
    message: str


def code_of(step: int, words: Sequence[Termination]) -> int:
    """Return the code that speaks for all launchers.

    A verdict of any of them (wrong data, no access, ...) counts, then success, then that all were asked to stop; else
    it is the step's, which srun takes from the task with the highest.

    Args:
        step: exit code of srun.
        words: last words of the nodes that left one, by slot.
    """
    verdicts = [word.code for word in words if rule_for(word.code).is_verdict]
    if verdicts:
        return verdicts[0]
    if step == ExitCode.SUCCEEDED:
        return step
    asked = bool(words) and {word.code for word in words} <= {ExitCode.INTERRUPTED, ExitCode.SUCCEEDED}
    return int(ExitCode.INTERRUPTED) if asked and step == ExitCode.INTERRUPTED else step


def decide(
    ends: Sequence[LauncherEnd],
    *,
    budget: RestartBudget,
    word: str,
    stop_requested: bool,
    can_requeue: bool,
) -> Next:
    """Return what follows from the newest end; pure.

    Args:
        ends: every end of the attempt, oldest first, at least one.
        budget: the run's failure policy.
        word: SLURM's word for the job; empty when it did not answer.
        stop_requested: somebody asked the run to stop.
        can_requeue: the site lets the job go back into the queue.
    """
    code = ends[-1].code
    if code == ExitCode.SUCCEEDED:
        return Next("end 0", code, rule_for(code).advice)
    if word in _LEAVING and not stop_requested:
        said = "The job was cancelled with scancel; the same command goes on from the newest checkpoint."
        return Next(f"end {code}", code, said)
    verdict = decide_restart(ends, budget=budget, stop_requested=stop_requested)
    if isinstance(verdict, EndRun):
        return Next(f"end {verdict.code}", verdict.code, verdict.why)
    if code != ExitCode.INTERRUPTED:
        return Next(f"again {verdict.delay_s:g}", None, verdict.why)
    if can_requeue:
        return Next("requeue", None, "saved; the job goes back into the queue")
    said = "Asked to stop by SLURM, and the site does not let a job go back into the queue; the same command goes on."
    return Next(f"end {code}", code, said)


def main(argv: list[str] | None = None) -> int:
    """Decide, write the report, print the line; always 0 but for wrong arguments."""
    given = _options(argv)
    folder: RunDir = given.run_dir
    words = [word for slot in range(_num_nodes()) if (word := read_last_word(_last_word(folder, slot))) is not None]
    code = code_of(given.code, words)
    report = read_report(folder.slurm_job, attempt=given.attempt) or _first_report(given.attempt)
    if not given.cannot_requeue:
        end = PastEnd(
            code=code,
            reason=rule_for(code).reason,
            at_unix_s=time.time(),
            commit_step=read_commit_step(folder.progress),
        )
        report = report.model_copy(
            update={"starts": report.starts + 1, "ends": (*report.ends, end)[-NUM_ENDS_KEPT:], "job_id": _job_id()}
        )
    has_word = any(word.code == code for word in words)
    following = decide(
        [LauncherEnd(end.code, end.at_unix_s, has_word, end.commit_step) for end in report.ends],
        budget=RestartBudget(
            max_restarts=given.max_restarts,
            window_s=int(given.restart_window_s),
            max_without_progress=given.max_without_progress,
        ),
        word=given.word,
        stop_requested=read_stop_request(folder.stop_request, attempt=given.attempt) is not None,
        can_requeue=not given.cannot_requeue,
    )
    if following.code is not None:
        said = next((word.message for word in words if word.code == code and word.message), "")
        report = report.model_copy(
            update={
                "code": following.code,
                "reason": rule_for(following.code).reason,
                "message": said or following.message,
                "ended_unix_s": time.time(),
            }
        )
    write(folder.slurm_job, report)
    print(following.line)
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} job {_job_id()}: {following.message}", file=sys.stderr)
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of("sam3ft_launch.slurm.verdict", "Say what follows from the launchers' end.")
    parser.add_argument("--code", type=int, required=True, help="exit code of the launchers' step")
    parser.add_argument("--word", default="", help="SLURM's word for the state of the job")
    parser.add_argument("--cannot-requeue", action="store_true", help="scontrol has refused")
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--restart-window-s", type=float, required=True)
    parser.add_argument("--max-without-progress", type=int, required=True)
    return parser.parse_args(argv)


def _num_nodes() -> int:
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def _job_id() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


def _last_word(folder: RunDir, slot: int) -> Path:
    return folder.node_work(slot) / folder.last_word.name


def _first_report(attempt: int) -> JobReport:
    began = float(os.environ.get("SLURM_JOB_START_TIME") or time.time())
    return JobReport(attempt=attempt, job_id=_job_id(), host=socket.gethostname(), started_unix_s=began)


if __name__ == "__main__":
    sys.exit(main())
