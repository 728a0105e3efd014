"""`sam3ft logs`: what a run has said."""

from typing import Annotated

import typer

from sam3ft_launch.cli.locate import RunArgument, backend_of, handle_of, locate
from sam3ft_launch.cli.output import OutputFormat, OutputOption, emit


def logs(
    run: RunArgument = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until the run ends.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=100_000, help="Lines to begin with, per file.")
    ] = 50,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show the logs of a run: supervisor, launcher and every worker; a header names the file when it changes."""
    folder, record = locate(run)
    for line in backend_of(folder).logs(handle_of(folder, record), lines=lines, follow=follow):
        if output is OutputFormat.JSON:
            emit(event="log", line=line)
        else:
            print(line, flush=True)
