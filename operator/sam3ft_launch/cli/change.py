"""`sam3ft scale`, `suspend`, `resume`, `retry`, `events`: verbs that only a cluster has."""

from typing import Annotated

import typer

from sam3ft_launch.backend import Unsupported
from sam3ft_launch.cli.cluster.place import ClusterPlace, ClusterRunArgument, placed
from sam3ft_launch.cli.options import BackendName
from sam3ft_launch.cli.output import OutputFormat, OutputOption

WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it has come to pass.")]


@placed(default=BackendName.KUBERNETES)
def scale(
    run: ClusterRunArgument = None,
    *,
    nodes: Annotated[int, typer.Option("--nodes", min=1, metavar="N", help="Within minNodes to maxNodes.")],
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Let a run on a cluster go on with another number of nodes, as `kubectl scale` does."""
    there = _required(place, "scale", "choose --nproc at the next `sam3ft run`")
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.scale(there, run, nodes=nodes, output=output)


@placed(default=BackendName.KUBERNETES)
def suspend(
    run: ClusterRunArgument = None,
    *,
    wait: WaitOption = True,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Let a run on a cluster save a checkpoint and give its nodes back; `sam3ft resume` goes on."""
    there = _required(place, "suspend", "use `sam3ft cancel`")
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.suspend(there, run, wait=wait, output=output)


@placed(default=BackendName.KUBERNETES)
def resume(
    run: ClusterRunArgument = None,
    *,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Let a suspended run on a cluster go on from its newest checkpoint."""
    there = _required(place, "resume", "use `sam3ft run FILE` again")
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.resume(there, run, output=output)


@placed(default=BackendName.KUBERNETES)
def retry(
    run: ClusterRunArgument = None,
    *,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Run a failed run on a cluster again from its newest checkpoint, with a fresh budget of restarts."""
    there = _required(place, "retry", "use `sam3ft run FILE` again")
    from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

    changes.retry(there, run, output=output)


@placed(default=BackendName.KUBERNETES)
def events(
    run: ClusterRunArgument = None,
    *,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show what was decided about a run on a cluster, and what its pods and Jobs are warned about."""
    there = _required(place, "events", "use `sam3ft logs`")
    from sam3ft_launch.cli.cluster import events as on_cluster  # noqa: PLC0415 - an extra's library

    on_cluster.show(there, run, output=output)


def _required(place: ClusterPlace | None, verb: str, instead: str) -> ClusterPlace:
    if place is None:
        raise Unsupported(f"`sam3ft {verb}` is for --backend kubernetes; on this machine {instead}")
    return place
