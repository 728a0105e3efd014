"""`sam3ft run --backend kubernetes`: apply the file, and stay with the run until it ends."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sam3ft_api.convert import to_training_config
from sam3ft_launch.cli.cluster.follow import end_code, follow
from sam3ft_launch.cli.cluster.place import ClusterPlace, named_namespace
from sam3ft_launch.cli.cluster.status import places
from sam3ft_launch.cli.follow import view_for
from sam3ft_launch.cli.output import OutputFormat, say
from sam3ft_launch.kubernetes.explain import explain
from sam3ft_launch.kubernetes.observe import observed_of
from sam3ft_launch.kubernetes.runs import ClusterRun, ClusterRuns
from sam3ft_launch.prepare import load_resource


def run_on_cluster(
    place: ClusterPlace, file: Path, *, assignments: Sequence[str], detach: bool, output: OutputFormat
) -> int:
    """Create or change the resource that a file describes; returns the run's exit code, or 0 at once when detached.

    Ctrl-C leaves the run alone.

    Raises:
        InvalidConfig: the file is wrong, or the API server refuses it.
        TransientError: the API server did not answer.
    """
    finetune, _ = load_resource(file, assignments=assignments)
    to_training_config(finetune, backend=finetune.spec.backend)  # what the operator would refuse is refused here
    runs = place.runs(namespace=named_namespace(finetune))
    run = runs.apply(finetune)
    if detach:
        _say_applied(runs, run, output, event="submitted")
        return 0
    _say_applied(runs, run, output, event="planned")
    try:
        return _followed(runs, run, output)
    except KeyboardInterrupt:
        if output is OutputFormat.TEXT:
            print(f"{run.name} goes on; {_hints(runs, run)}")
        raise


def _followed(runs: ClusterRuns, run: ClusterRun, output: OutputFormat) -> int:
    ended = follow(runs, run, view=view_for(output))
    if ended is None:
        text = f"{run.name} was deleted; its checkpoints stay"
        say(text, output=output, event="ended", message=text, name=run.name, state="Gone")
        return end_code(None)
    now = datetime.now(UTC)
    observed = observed_of(ended, now=now)
    lines = [explain(ended, now=now).line(ended.name)]
    say(
        "\n".join([*lines, *(f"  {what:<12} {where}" for what, where in places(ended).items())]),
        output=output,
        event="ended",
        name=ended.name,
        state=observed.state,
        code=observed.exit_code,
        reason=observed.reason,
        message=observed.message,
        places=places(ended),
    )
    return end_code(observed.exit_code)


def _say_applied(runs: ClusterRuns, run: ClusterRun, output: OutputFormat, *, event: str) -> None:
    say(
        f"{run.name}: applied in namespace {runs.namespace}; {_hints(runs, run)}",
        output=output,
        event=event,
        name=run.name,
        namespace=run.namespace,
        uid=run.uid,
        generation=run.generation,
    )


def _hints(runs: ClusterRuns, run: ClusterRun) -> str:
    where = f"{run.name} -n {runs.namespace}"
    return f"`sam3ft status {where}`, `sam3ft logs -f {where}` and `sam3ft explain {where}` look after it"
