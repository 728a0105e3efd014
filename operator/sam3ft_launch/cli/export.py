"""`sam3ft export`: a run's model as a Hugging Face folder."""

import typer

from sam3ft_launch.cli.handover import arguments_for
from sam3ft_launch.cli.locate import RunArgument
from sam3ft_launch.cli.output import OutputFormat, OutputOption
from sam3ft_launch.cli.trainer import become_trainer


def export(context: typer.Context, run: RunArgument = None, *, output: OutputOption = OutputFormat.TEXT) -> None:
    """Write the model of a commit. Further options go to the trainer: `python -m sam3ft_trainer export --help`."""
    become_trainer(arguments_for("export", run, context.args, output=output))
