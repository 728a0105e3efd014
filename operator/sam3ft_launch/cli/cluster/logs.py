"""`sam3ft logs` on a cluster: from the pods, when they are gone from beside the checkpoints, else from the status."""

import shlex
import sys
from collections.abc import Iterable, Iterator

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.text import without_controls
from sam3ft_launch.cli.cluster.follow import has_ended
from sam3ft_launch.cli.cluster.place import ClusterPlace
from sam3ft_launch.cli.cluster.site_log import SiteLog, address_of, ask_store
from sam3ft_launch.cli.output import OutputFormat, say
from sam3ft_launch.kubernetes.pod_logs import PodLogs
from sam3ft_launch.kubernetes.runs import ClusterRun, ClusterRuns, NoSuchRun


def show(
    place: ClusterPlace, run: str | None, *, follow: bool, lines: int, rank: int | None, output: OutputFormat
) -> None:
    """Print what a run has said.

    Args:
        place: of the run.
        run: name or file.
        follow: go on with new lines, over attempts, until the run ends.
        lines: how many to begin with.
        rank: of the worker whose node is read; None for the first node.
        output: for whom to print.

    Raises:
        InvalidConfig, TransientError: as `ClusterRuns`.
    """
    runs, found = place.find(run)
    if found.spec.get("backend") == "slurm":
        _show_site(runs, found, follow=follow, lines=lines, rank=rank, output=output)
        return
    per_node = max(1, int((found.spec.get("workers") or {}).get("gpusPerNode") or 1))
    pods = PodLogs(runs, found, index=0 if rank is None else rank // per_node, tell=_notice)
    shown = pods.follow(lines=lines, is_over=lambda: _is_over(runs, found)) if follow else pods.newest(lines=lines)
    if not _say_each(shown, output):
        _say_each(_kept(runs, found, lines), output)


def _show_site(
    runs: ClusterRuns, run: ClusterRun, *, follow: bool, lines: int, rank: int | None, output: OutputFormat
) -> None:
    if rank is not None:
        raise InvalidConfig(f"--rank: the logs of single workers stay on the site; {_on_site(run)} --rank {rank}")
    log = SiteLog(run)
    shown = log.follow(lines=lines, is_over=lambda: _is_over(runs, run)) if follow else log.newest(lines=lines)
    said = _say_each(shown, output)
    if log.problem:
        _notice(log.problem)
    if not said:
        _say_each(_kept(runs, run, lines), output)


def _say_each(lines: Iterable[str], output: OutputFormat) -> bool:
    """Print lines as they come; True when there was one."""
    said = False
    for line in lines:
        said = True
        say(line, output=output, event="log", line=line)
    return said


def _on_site(run: ClusterRun) -> str:
    """Say where the log itself lies, and how it is read there."""
    slurm = run.status.slurm
    if slurm is None or not slurm.folder:
        return f"{run.name} has no run folder on its site yet"
    folder = shlex.quote(without_controls(slurm.folder))
    return f"the log of {run.name} lies on site {without_controls(slurm.site)}; there: sam3ft logs -f {folder}"


def _is_over(runs: ClusterRuns, run: ClusterRun) -> bool:
    try:
        return has_ended(runs.get(run.name, uid=run.uid))
    except NoSuchRun:
        return True


def _kept(runs: ClusterRuns, run: ClusterRun, lines: int) -> Iterator[str]:
    """Yield what outlives the pods: the last lines beside the checkpoints, else those in the status."""
    uri, slurm = address_of(run), run.status.slurm
    gone = f"the pods of {run.name} are gone" if slurm is None else _on_site(run)
    kept, why = _beside_checkpoints(run, uri)
    if kept:
        _notice(f"{gone}; kept beside its checkpoints in {uri}:")
        yield from kept[max(0, len(kept) - lines) :]
        return
    found = list(_in_status(run))
    if found:
        _notice(f"{gone}; {why}; from its status:")
        yield from found[max(0, len(found) - lines) :]
    else:
        newest = runs.get(run.name, uid=run.uid)
        if slurm is not None:
            _notice(gone)
        _notice(f"{run.name} has said nothing yet; it is {newest.phase.value}: {newest.message}")


def _beside_checkpoints(run: ClusterRun, uri: str) -> tuple[list[str], str]:
    """Return the kept lines, read with the user's own credentials, and why there are none."""
    answer, problem = ask_store(run, ["tails", uri])
    if answer is None or problem:
        return [], problem
    tails = answer.document.get("tails") or []
    lines = [
        line
        for tail in tails
        for line in (
            f"--- attempt {tail['attempt']}, rank {tail['rank']}, ended with {tail['end']}",
            *str(tail["text"]).splitlines(),
        )
    ]
    return lines, f"{uri} keeps no lines"


def _in_status(run: ClusterRun) -> Iterator[str]:
    for attempt in run.status.attempts:
        failure = attempt.first_failure
        if failure is None:
            continue
        rank = "" if failure.rank is None else f", rank {failure.rank}"
        node = f" on node {failure.node}" if failure.node else ""
        yield f"--- attempt {attempt.n}{rank}{node}, ended with {attempt.reason}"
        yield from failure.message.splitlines()


def _notice(text: str) -> None:
    """Say where lines come from, apart from them."""
    print(f"sam3ft: {text}", file=sys.stderr)
