"""`python -m sam3ft_launch.slurm.verdict`: what follows from the launchers' end; one line on standard output.

    again SECONDS     start the launchers again, in the same job
    elsewhere NODES   put the job back into the queue, and keep it away from these nodes
    requeue           put the job back into the queue; the checkpoint is saved
    queued            nothing: SLURM has put it back already
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

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.plan import RestartBudget
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.ends import PastEnd
from sam3ft_launch.folder.last_word import read_commit_step, read_last_word
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import read_stop_request
from sam3ft_launch.restart import EndRun, LauncherEnd, decide_restart
from sam3ft_launch.slurm.arguments import num_nodes, parser_of
from sam3ft_launch.slurm.bad_nodes import away_from, blamed
from sam3ft_launch.slurm.record import JobReport, read_report, write
from sam3ft_launch.slurm.states import JobState

NUM_ENDS_KEPT = 100
_LEAVING = frozenset({"COMPLETING", "CANCELLED", "PENDING", "REQUEUED"})
"""Words of a job of which the script still runs, while SLURM has decided otherwise."""


@dataclass(frozen=True, slots=True)
class Next:
    """What the script does.

    Attributes:
        line: that is printed.
        code: of the attempt when it is over; None otherwise.
        message: why, for people.
        reason: CamelCase word in place of the code's own; empty for that.
    """

    line: str
    code: int | None
    message: str
    reason: str = ""


def code_of(step: int, words: Sequence[Termination], *, nodes: int) -> int:
    """Return the code that speaks for all launchers.

    As among the workers of a node: a verdict (wrong data, no access, ...) counts most, then success of all, then 20,
    because the checkpoint that was asked for is committed, then the step's, which is the highest of its tasks'. Success
    needs the word of every node: when one fails, srun ends with 0.

    Args:
        step: exit code of srun.
        words: last words of the nodes that left one, by slot.
        nodes: of the job.
    """
    codes = [word.code for word in words]
    verdicts = [code for code in codes if rule_for(code).is_verdict]
    if verdicts:
        return verdicts[0]
    if step == ExitCode.SUCCEEDED and codes == [ExitCode.SUCCEEDED] * nodes:
        return step
    if ExitCode.INTERRUPTED in codes:
        return int(ExitCode.INTERRUPTED)
    return step or int(ExitCode.PEER_LOST)


def decide(
    ends: Sequence[LauncherEnd],
    *,
    budget: RestartBudget,
    word: str,
    is_requeued: bool,
    stop_requested: bool,
    can_requeue: bool,
    away: Sequence[str] = (),
) -> Next:
    """Return what follows from the newest end; pure.

    Args:
        ends: every end of the attempt, oldest first, at least one.
        budget: the run's failure policy.
        word: SLURM's word for the job; empty when it did not answer.
        is_requeued: SLURM counts another start of the job already.
        stop_requested: somebody asked the run to stop.
        can_requeue: the site lets the job go back into the queue.
        away: nodes that the job is better kept away from, the one of the newest end first; none as a rule.
    """
    code = ends[-1].code
    if code == ExitCode.SUCCEEDED:
        return Next("end 0", code, rule_for(code).advice)
    if word in _LEAVING and not stop_requested:
        return _left(code, is_requeued=is_requeued)
    if away and can_requeue and not stop_requested:
        return Next(f"elsewhere {','.join(away)}", None, f"the run has failed on {away[0]}; it goes on elsewhere")
    verdict = decide_restart(ends, budget=budget, stop_requested=stop_requested)
    if isinstance(verdict, EndRun):
        return Next(f"end {verdict.code}", verdict.code, verdict.why)
    if code == ExitCode.INTERRUPTED:
        return _saved(code, can_requeue=can_requeue)
    return Next(f"again {verdict.delay_s:g}", None, verdict.why)


def _saved(code: int, *, can_requeue: bool) -> Next:
    if can_requeue:
        return Next("requeue", None, "saved; the job goes back into the queue")
    said = "Asked to stop by SLURM, and the site does not let a job go back into the queue; the same command goes on."
    return Next(f"end {code}", code, said)


def _left(code: int, *, is_requeued: bool) -> Next:
    if is_requeued:
        return Next("queued", None, "SLURM has put the job back into the queue")
    said = "The job was cancelled with scancel; the same command goes on from the newest checkpoint."
    return Next(f"end {code}", code, said, reason=str(JobState.CANCELLED))


def main(argv: list[str] | None = None) -> int:
    """Decide, write the report, print the line; returns 0.

    Raises:
        StorageDenied: the report cannot be read or written.
    """
    given = _options(argv)
    folder: RunDir = given.run_dir
    found = {slot: read_last_word(folder.node_last_word(slot)) for slot in range(num_nodes())}
    by_slot = {slot: said for slot, said in found.items() if said is not None}
    words = list(by_slot.values())
    code = code_of(given.code, words, nodes=num_nodes())
    report = read_report(folder.slurm_job, attempt=given.attempt) or JobReport(attempt=given.attempt)
    if not given.cannot_requeue:
        end = PastEnd(
            code=code,
            reason=rule_for(code).reason,
            at_unix_s=time.time(),
            commit_step=read_commit_step(folder.progress),
            node=blamed(by_slot, given.hosts.split(",")),
        )
        ends = (*report.ends, end)[-NUM_ENDS_KEPT:]
        wrote = {"job_id": os.environ.get("SLURM_JOB_ID", ""), "host": socket.gethostname()}
        report = report.model_copy(update={"starts": report.starts + 1, "ends": ends, **wrote})
    word, _, count = " ".join(given.word.split()).partition(" ")
    has_word = any(said.code == code for said in words)
    following = decide(
        [LauncherEnd(end.code, end.at_unix_s, has_word, end.commit_step) for end in report.ends],
        budget=RestartBudget(
            max_restarts=given.max_restarts,
            window_s=int(given.restart_window_s),
            max_without_progress=given.max_without_progress,
        ),
        word=word,
        is_requeued=count.isdecimal() and int(count) > int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        stop_requested=read_stop_request(folder.stop_request, attempt=given.attempt) is not None,
        can_requeue=not given.cannot_requeue,
        away=away_from(report.ends, spare=given.spare),
    )
    if following.code is not None:
        said = next((said.message for said in words if said.code == code and said.message), "")
        if word in _LEAVING:  # that somebody has cancelled the job explains more than that it was asked to stop
            said = f"{following.message} {said}".strip()
        report = report.model_copy(
            update={
                "code": following.code,
                "reason": following.reason or rule_for(following.code).reason,
                "message": said or following.message,
                "ended_unix_s": time.time(),
            }
        )
    write(folder.slurm_job, report)
    print(following.line)
    print(
        f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} job {report.job_id}: {following.message}",
        file=sys.stderr,
    )
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = parser_of("sam3ft_launch.slurm.verdict", "Say what follows from the launchers' end.")
    parser.add_argument("--code", type=int, required=True, help="exit code of the launchers' step")
    parser.add_argument("--word", default="", help="the job's State and RestartCnt, from squeue")
    parser.add_argument("--hosts", default="", help="the job's nodes, in the order of slots, with commas")
    parser.add_argument("--spare", type=int, default=0, help="usable nodes of the partition beyond those of the run")
    parser.add_argument("--cannot-requeue", action="store_true", help="scontrol has refused")
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--restart-window-s", type=float, required=True)
    parser.add_argument("--max-without-progress", type=int, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
