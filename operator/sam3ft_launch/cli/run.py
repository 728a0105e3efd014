"""`sam3ft run`: fine-tune."""

from typing import Annotated

import typer

from sam3ft_launch.cli.options import (
    BackendName,
    BackendOption,
    FileArgument,
    NprocOption,
    RunDirOption,
    SetOption,
    require_available,
)
from sam3ft_launch.cli.output import OutputFormat, OutputOption
from sam3ft_launch.cli.session import drive, open_session
from sam3ft_launch.prepare import load

DetachOption = Annotated[
    bool, typer.Option("--detach", help="Return once it has started; it goes on without this terminal.")
]


def run(
    file: FileArgument,
    *,
    backend: BackendOption = BackendName.LOCAL,
    nproc: NprocOption = None,
    run_dir: RunDirOption = None,
    assignments: SetOption = None,
    detach: DetachOption = False,
    output: OutputOption = OutputFormat.TEXT,
) -> int:
    """Check the data, then train, score and export. The same command goes on after an interruption."""
    require_available(backend)
    prepared = load(file, assignments=assignments or ())
    session = open_session(prepared, nproc=nproc, run_dir=run_dir, detached=detach)
    return drive(session, detach=detach, output=output)
