"""`sam3ft scale`, `suspend`, `resume`, `retry`, `events`: verbs that only a cluster has."""

from typing import Annotated

import typer

from sam3ft_launch.cli.cluster.place import ClusterPlace, ClusterRunArgument, placed
from sam3ft_launch.cli.output import OutputFormat, OutputOption

WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it has come to pass.")]


@placed(instead="choose --nproc at the next `sam3ft run`")
def scale(
    run: ClusterRunArgument = None,
    *,
    nodes: Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="Within minNodes to maxNodes.")],
    place: ClusterPlace,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Let a run on a cluster go on with another number of nodes, as `kubectl scale` does."""
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.scale(place, run, nodes=nodes, output=output)


@placed(instead="use `sam3ft cancel`")
def suspend(
    run: ClusterRunArgument = None,
    *,
    wait: WaitOption = True,
    place: ClusterPlace,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Let a run on a cluster save a checkpoint and give its nodes back; `sam3ft resume` goes on."""
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.suspend(place, run, wait=wait, output=output)


@placed(instead="use `sam3ft run FILE` again")
def resume(
    run: ClusterRunArgument = None,
    *,
    place: ClusterPlace,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Let a suspended run on a cluster go on from its newest checkpoint."""
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.resume(place, run, output=output)


@placed(instead="use `sam3ft run FILE` again")
def retry(
    run: ClusterRunArgument = None,
    *,
    place: ClusterPlace,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Run a failed run on a cluster again from its newest checkpoint, with a fresh budget of restarts."""
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.retry(place, run, output=output)


@placed(instead="use `sam3ft logs`")
def events(
    run: ClusterRunArgument = None,
    *,
    place: ClusterPlace,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show what was decided about a run on a cluster, and what its pods and Jobs are warned about."""
    from sam3ft_launch.cli.cluster import events as on_cluster  # noqa: PLC0415 - an extra's library

    on_cluster.show(place, run, output=output)
