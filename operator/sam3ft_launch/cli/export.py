"""`sam3ft export`: a run's model as a Hugging Face folder."""

import typer

from sam3ft_launch.cli.handover import hand_over
from sam3ft_launch.cli.locate import RunArgument
from sam3ft_launch.cli.output import OutputFormat, OutputOption


def export(context: typer.Context, run: RunArgument = None, *, output: OutputOption = OutputFormat.TEXT) -> None:
    """Write the model of a commit. Further options go to the trainer: `python -m sam3ft_trainer export --help`."""
    hand_over("export", run, context.args, output=output)
