"""`sam3ft model`: weights before a run."""

from typing import Annotated

import typer

from sam3ft_api.storage import DEFAULT_PROFILE
from sam3ft_launch.cli.output import OutputFormat, OutputOption
from sam3ft_launch.cli.trainer import become_trainer

app = typer.Typer(help="Weights to start from.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Weights to start from."""


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(metavar="SRC", help="hf://facebook/sam3, a folder or a bucket address.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="A folder or a bucket address to copy into.")],
    profile: Annotated[str, typer.Option(help="Storage profile of the destination.")] = DEFAULT_PROFILE,
    data_profile: Annotated[str, typer.Option(help="Storage profile of the source.")] = DEFAULT_PROFILE,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Copy published weights (gated ones with your own token) into a folder or a bucket, verified."""
    become_trainer(["fetch", source, destination, "--profile", profile, "--data-profile", data_profile, "-o", output])
