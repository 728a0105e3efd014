"""`sam3ft logs`: what a run has said."""

from typing import Annotated

import typer

from sam3ft_launch.cli.cluster.place import ClusterPlace, placed
from sam3ft_launch.cli.locate import RunArgument, locate
from sam3ft_launch.cli.output import OutputFormat, OutputOption, say


@placed()
def logs(
    run: RunArgument = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until the run ends.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "--tail", min=0, max=100_000, help="Lines to begin with, per file.")
    ] = 50,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", min=0, help="Only this worker. Default: supervisor, launcher and rank 0.", show_default=False
        ),
    ] = None,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show what a run has said, over all its attempts.

    On a cluster: from the pods; when they are gone, what is kept beside the checkpoints or in the status.
    """
    if place is not None:
        from sam3ft_launch.cli.cluster.logs import show  # noqa: PLC0415 - an extra's library

        show(place, run, follow=follow, lines=lines, rank=rank, output=output)
        return
    found = locate(run)
    for line in found.backend.logs(found.handle, lines=lines, follow=follow, rank=rank):
        say(line, output=output, event="log", line=line)
