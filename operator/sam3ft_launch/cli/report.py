"""`sam3ft report`: one page about a run, at any time."""

from pathlib import Path
from typing import Annotated

import typer

from sam3ft_launch.cli.cluster.place import ClusterPlace, placed
from sam3ft_launch.cli.locate import RunArgument, locate
from sam3ft_launch.cli.output import OutputFormat, OutputOption
from sam3ft_launch.cli.trainer import show_trainer


@placed()
def report(
    run: RunArgument = None,
    *,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="File to write. Default: work/report.html of the run folder; of a run on a cluster RUN.html here.",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Make the report of a run: curves, scores, what to do next.

    One HTML file, from what the run has left behind so far; a finished run has its report already. On a cluster: from
    what is kept beside the checkpoints, read with your own credentials.
    """
    if place is not None:
        from sam3ft_launch.cli.cluster.report import make  # noqa: PLC0415 - an extra's library

        make(place, run, to=to, output=output)
        return
    folder = locate(run).folder
    words = ["report", str(folder.work), "--config", str(folder.config)]
    words += ["--to", str(to.absolute())] if to is not None else []
    show_trainer([*words, "-o", output.value])
