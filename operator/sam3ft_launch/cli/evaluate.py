"""`sam3ft eval`: score a run on a split."""

import typer

from sam3ft_launch.cli.handover import hand_over
from sam3ft_launch.cli.locate import RunArgument
from sam3ft_launch.cli.output import OutputFormat, OutputOption


def evaluate(context: typer.Context, run: RunArgument = None, *, output: OutputOption = OutputFormat.TEXT) -> None:
    """Score a run's newest commit. Further options go to the trainer: `python -m sam3ft_trainer eval --help`."""
    hand_over("eval", run, context.args, output=output)
