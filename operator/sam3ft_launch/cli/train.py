"""`sam3ft train`: the same run, composed from Hydra overrides instead of a file."""

from typing import Annotated

import typer

from sam3ft_launch.cli.options import NprocOption, RunDirOption
from sam3ft_launch.cli.output import OutputFormat, OutputOption
from sam3ft_launch.cli.run import DetachOption
from sam3ft_launch.cli.session import drive, open_session
from sam3ft_launch.cli.trainer import ask_trainer
from sam3ft_launch.prepare import prepare_config

OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDE...",
        help="Hydra overrides of the config document, such as data.uri=FOLDER scratch.enable_segmentation=true.",
        show_default=False,
    ),
]


def train(
    overrides: OverridesArgument = None,
    *,
    nproc: NprocOption = None,
    run_dir: RunDirOption = None,
    detach: DetachOption = False,
    output: OutputOption = OutputFormat.TEXT,
) -> int:
    """Train from Hydra overrides, for those who think in config groups; everything else is as in `run`."""
    document = ask_trainer(["compose", *(overrides or ())]).document_or_raise()
    session = open_session(prepare_config(document), nproc=nproc, run_dir=run_dir, detached=detach)
    return drive(session, detach=detach, output=output)
