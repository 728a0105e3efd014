"""What a user can do to a run on a cluster: scale, suspend, resume, retry, cancel."""

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.status import Phase
from sam3ft_launch.cli.cluster.follow import follow
from sam3ft_launch.cli.cluster.place import ClusterPlace
from sam3ft_launch.cli.follow import view_for
from sam3ft_launch.cli.output import OutputFormat, say
from sam3ft_launch.kubernetes.runs import ClusterRun, ClusterRuns


def scale(place: ClusterPlace, run: str | None, *, nodes: int, output: OutputFormat) -> None:
    """Ask for another number of nodes.

    Raises:
        InvalidConfig: the run has ended, or the API server refuses the number.
    """
    runs, found = place.find(run)
    _refuse_if_ended(found, "scale")
    runs.scale(found, nodes)
    _say(found, output, "scale", f"{found.name} goes to {nodes} nodes; it grows at the next checkpoint", nodes=nodes)


def suspend(place: ClusterPlace, run: str | None, *, wait: bool, output: OutputFormat) -> None:
    """Save a checkpoint and give the nodes back; the resource stays.

    Raises:
        InvalidConfig: the run has ended.
    """
    runs, found = place.find(run)
    _refuse_if_ended(found, "suspend")
    changed = runs.change(found, suspend=True)
    if not wait:
        _say(found, output, "suspend", f"{found.name} saves a checkpoint and gives its nodes back")
        return
    ended = _wait_until_suspended(runs, changed, output)
    if ended is None:
        _say(found, output, "suspend", f"{found.name} was deleted; its checkpoints stay", state="Gone")
    elif ended.phase is Phase.SUSPENDED:
        where = f"{found.name} is suspended; {_newest(ended)}; `sam3ft resume {found.name}` goes on"
        _say(found, output, "suspend", where, phase=ended.phase.value)
    else:
        _say(found, output, "suspend", f"{found.name} has ended meanwhile: {ended.message}", phase=ended.phase.value)


def resume(place: ClusterPlace, run: str | None, *, output: OutputFormat) -> None:
    """Let a suspended run go on from its newest checkpoint.

    Raises:
        InvalidConfig: the run has ended.
    """
    runs, found = place.find(run)
    _refuse_if_ended(found, "resume")
    if not found.is_suspended:
        _say(found, output, "resume", f"{found.name} is not suspended; it is {found.phase.value}")
        return
    runs.change(found, suspend=False)
    _say(found, output, "resume", f"{found.name} goes on; {_newest(found)}")


def retry(place: ClusterPlace, run: str | None, *, output: OutputFormat) -> None:
    """Run a failed run again from its newest checkpoint, with a fresh budget of restarts.

    Raises:
        InvalidConfig: the run has not failed.
    """
    runs, found = place.find(run)
    if found.phase is not Phase.FAILED:
        raise InvalidConfig(f"{found.name} is {found.phase.value}; only a run that has Failed can be tried again")
    # Two users who ask at once ask for the same number.
    number = max(int(found.spec.get("retry") or 0), found.status.retried) + 1
    runs.change(found, retry=number)
    _say(found, output, "retry", f"{found.name} is tried again (retry {number}); {_newest(found)}", retry=number)


def cancel(place: ClusterPlace, run: str | None, *, grace_s: float, wait: bool, output: OutputFormat) -> None:
    """Save a checkpoint, then delete the resource. What is stored stays.

    Args:
        place: of the run.
        run: name or file.
        grace_s: seconds for saving; 0 deletes at once, and the pods have only their own grace.
        wait: False deletes at once, too.
        output: for whom to print.
    """
    runs, found = place.find(run)
    newest: ClusterRun | None = found
    if wait and grace_s > 0 and not found.phase.is_final and found.status.attempts:
        newest = _wait_until_suspended(runs, runs.change(found, suspend=True), output, within_s=grace_s)
    runs.delete(found)
    saved = newest if newest is not None else found
    text = f"{found.name} is deleted; {_newest(saved)}"
    if saved.status.checkpoint is not None:
        text += "; a new run with the same checkpoint.uri and checkpoint.adopt: true goes on from it"
    _say(found, output, "cancel", text)


def _wait_until_suspended(
    runs: ClusterRuns, run: ClusterRun, output: OutputFormat, *, within_s: float | None = None
) -> ClusterRun | None:
    return follow(
        runs,
        run,
        view=view_for(output),
        # A run that was about to resume may still be called Suspended.
        is_over=lambda it: (
            it.phase.is_final or (it.phase is Phase.SUSPENDED and it.status.observed_generation >= run.generation)
        ),
        within_s=within_s,
    )


def _refuse_if_ended(run: ClusterRun, verb: str) -> None:
    if run.phase.is_final:
        todo = f"; `sam3ft retry {run.name}` runs it again" if run.phase is Phase.FAILED else ""
        raise InvalidConfig(f"{run.name} has ended ({run.phase.value}), so there is nothing to {verb}{todo}")


def _newest(run: ClusterRun) -> str:
    checkpoint = run.status.checkpoint
    if checkpoint is None:
        return "no checkpoint is known"
    return f"the newest checkpoint is step {checkpoint.step} in {checkpoint.uri}"


def _say(run: ClusterRun, output: OutputFormat, event: str, text: str, **fields: object) -> None:
    say(text, output=output, event=event, run=run.name, namespace=run.namespace, message=text, **fields)
