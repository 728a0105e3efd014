"""Whether a launcher that ended is started again: pure, from the exit-code table and the history of this attempt.

The launcher keeps retryable ends of its workers to itself and exits only when its own budget is spent, so most of its
exit codes are final. What is left for the supervisor is the launcher's own death and long outages of the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.plan import RestartBudget

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
_BUDGET_SPENT_INSIDE = frozenset({ExitCode.INTERNAL_ERROR, ExitCode.HUNG})


@dataclass(frozen=True, slots=True)
class LauncherEnd:
    """One end of the launcher.

    Attributes:
        code: exit status as a shell sees it (128 + signal for a signal).
        at_s: monotonic time of the end.
        has_last_word: the launcher left its termination message, so the code is its own decision.
        commit_step: step of the newest commit known at the end; None without one.
    """

    code: int
    at_s: float
    has_last_word: bool
    commit_step: int | None


@dataclass(frozen=True, slots=True)
class StartAgain:
    """Start the launcher again after `delay_s` seconds."""

    delay_s: float
    why: str


@dataclass(frozen=True, slots=True)
class EndRun:
    """The run is over with this exit code."""

    code: int
    why: str


def decide_restart(ends: Sequence[LauncherEnd], *, budget: RestartBudget, stop_requested: bool) -> StartAgain | EndRun:
    """Return what follows from the newest end.

    Args:
        ends: every end of this attempt, oldest first, at least one.
        budget: the run's `failurePolicy`.
        stop_requested: somebody asked the run to stop; then nothing is started again.
    """
    last = ends[-1]
    rule = rule_for(last.code)
    if stop_requested and last.code == ExitCode.TERMINATED and not last.has_last_word:
        # A launcher handles the request from its first moments on; only one that had started no worker dies of it.
        return EndRun(ExitCode.INTERRUPTED, "Asked to stop before training began; nothing was lost.")
    if stop_requested or not rule.retry:
        return EndRun(last.code, rule.advice)
    if last.has_last_word and last.code in _BUDGET_SPENT_INSIDE:
        return EndRun(last.code, f"{rule.advice} The launcher has spent its own restarts.")
    stuck = _num_without_progress(ends)
    if stuck >= budget.max_without_progress:
        return EndRun(last.code, f"{stuck} ends in a row without a newer commit. {rule.advice}")
    counted = [end for end in ends if rule_for(end.code).counts and last.at_s - end.at_s <= budget.window_s]
    if len(counted) > budget.max_restarts:
        return EndRun(
            last.code,
            f"{len(counted)} failures within {budget.window_s} s; failurePolicy.maxRestarts is "
            f"{budget.max_restarts}. {rule.advice}",
        )
    delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (stuck - 1))
    return StartAgain(delay_s, f"the launcher ended with {last.code} ({rule.reason}); starting again in {delay_s:g} s")


def _num_without_progress(ends: Sequence[LauncherEnd]) -> int:
    """Return how many of the newest ends in a row share the newest commit, at least 1."""
    newest = ends[-1].commit_step
    count = 0
    for end in reversed(ends):
        if end.commit_step != newest:
            break
        count += 1
    return count
