"""Staying with a run on a cluster until it ends; leaving it does nothing to the run."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.backend import TransientError
from sam3ft_launch.cli.follow import View
from sam3ft_launch.kubernetes.observe import observed_of
from sam3ft_launch.kubernetes.runs import ClusterRun, ClusterRuns, NoSuchRun

POLL_S = 2.0
PATIENCE_S = 600.0
"""An API server that is away for longer ends the following, not the run."""


def follow(
    runs: ClusterRuns,
    run: ClusterRun,
    *,
    view: View,
    is_over: Callable[[ClusterRun], bool] | None = None,
    within_s: float | None = None,
) -> ClusterRun | None:
    """Show a run until it has ended; returns it as it then is, or None when it was deleted.

    Args:
        runs: of its namespace.
        run: that is followed.
        view: shows it.
        is_over: when to return; by default at an end that only the user can change.
        within_s: return after so long, whatever the run does; None stays.

    Raises:
        TransientError: the API server was away for ten minutes.
    """
    ends = is_over or has_ended
    said, heard_s = "", time.monotonic()
    until_s = float("inf") if within_s is None else heard_s + within_s
    with view:
        while True:
            try:
                run = runs.get(run.name, uid=run.uid)
                heard_s = time.monotonic()
            except NoSuchRun:
                return None
            except TransientError as error:
                if time.monotonic() >= until_s:
                    return run
                if time.monotonic() - heard_s > PATIENCE_S:
                    raise
                said = _say(view, str(error), said)
                time.sleep(POLL_S)
                continue
            said = _say(view, f"{run.phase.value}: {run.message}" if run.message else run.phase.value, said)
            view.show(observed_of(run, now=datetime.now(UTC)))
            if ends(run) or time.monotonic() >= until_s:
                return run
            time.sleep(POLL_S)


def has_ended(run: ClusterRun) -> bool:
    """Tell whether a run stands still until its user does something: its newest spec has been acted on, too."""
    is_seen = run.status.observed_generation >= run.generation
    return is_seen and observed_of(run, now=run.created).state.is_terminal


def end_code(code: int | None) -> int:
    """Return the exit code of a command that has followed a run; a deleted run was interrupted."""
    return int(ExitCode.INTERRUPTED) if code is None else code


def _say(view: View, text: str, before: str) -> str:
    if text != before:
        view.say(text)
    return text
