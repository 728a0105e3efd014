"""`sam3ft explain`: why a run is not running, in one line, and what mends it."""

from datetime import UTC, datetime

from sam3ft_api.exit_codes import rule_for
from sam3ft_launch.backend import Observed, RunState
from sam3ft_launch.cli.cluster.place import ClusterPlace, placed
from sam3ft_launch.cli.live import progress_line
from sam3ft_launch.cli.locate import RunArgument, locate
from sam3ft_launch.cli.output import OutputFormat, OutputOption, say
from sam3ft_launch.cli.summary import exit_code_of
from sam3ft_launch.explanation import Explanation

_AGAIN = "the same `sam3ft run` command goes on from the newest checkpoint"


@placed()
def explain(
    run: RunArgument = None,
    *,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Say in one line why a run is not running, and what to do."""
    if place is not None:
        from sam3ft_launch.kubernetes import explain as on_cluster  # noqa: PLC0415 - an extra's library

        _, found = place.find(run)
        _say(found.name, on_cluster.explain(found, now=datetime.now(UTC)), output)
        return
    there = locate(run)
    observed = there.backend.observe(there.handle)
    _say(there.name, Explanation(str(observed.state), *why_and_fix(observed)), output)


def why_and_fix(observed: Observed) -> tuple[str, str]:
    """Return why a run of this machine is where it is, and what to do; either may be empty."""
    if not observed.state.is_terminal:
        if observed.state is RunState.RUNNING and observed.progress:
            going = progress_line(observed.progress, restarts=observed.restarts)
            return f"{going}; {observed.message}" if observed.message else going, ""
        return observed.message, ""
    if observed.state is RunState.SUCCEEDED:
        return observed.message.rstrip(". "), ""
    rule = rule_for(exit_code_of(observed))
    why = f"{observed.reason or rule.reason}: {observed.message}".rstrip(". ")
    if not rule.is_verdict:
        return why, _AGAIN
    advice = rule.advice.rstrip(". ")
    return why, _AGAIN if advice in observed.message else f"{advice}; then {_AGAIN}"


def _say(name: str, told: Explanation, output: OutputFormat) -> None:
    say(told.line(name), output=output, name=name, state=told.state, why=told.why, fix=told.fix)
