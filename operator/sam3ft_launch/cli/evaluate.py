"""`sam3ft eval`: score a run on a split."""

import typer

from sam3ft_launch.cli.handover import arguments_for
from sam3ft_launch.cli.locate import RunArgument
from sam3ft_launch.cli.output import OutputFormat, OutputOption
from sam3ft_launch.cli.trainer import become_trainer


def evaluate(context: typer.Context, run: RunArgument = None, *, output: OutputOption = OutputFormat.TEXT) -> None:
    """Score a run's newest commit. Further options go to the trainer: `python -m sam3ft_trainer eval --help`."""
    become_trainer(arguments_for("eval", run, context.args, output=output))
