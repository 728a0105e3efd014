"""Verbs that the trainer answers itself: which words it gets."""

from collections.abc import Sequence

import typer

from sam3ft_launch.cli.locate import locate
from sam3ft_launch.cli.output import OutputFormat

TrainerWords = typer.Context
"""Carries the words that the verb does not know; the trainer does."""


def arguments_for(verb: str, run: str | None, words: Sequence[str], *, output: OutputFormat) -> list[str]:
    """Return the trainer's command line for a verb about a run.

    Raises:
        InvalidConfig: there is no such run.
    """
    folder, _record = locate(run)
    return [verb, "--config", str(folder.config), *words, "-o", output]
