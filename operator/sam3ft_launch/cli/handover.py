"""Verbs that the trainer answers itself: which words it gets."""

import os
from collections.abc import Sequence

import typer

from sam3ft_api.training import TrainingConfig
from sam3ft_launch.cli.locate import locate
from sam3ft_launch.cli.output import OutputFormat
from sam3ft_launch.cli.trainer import become_trainer
from sam3ft_launch.prepare import cache_of_this_machine

TrainerWords = typer.Context
"""Carries the words that the verb does not know; the trainer does."""


def hand_over(verb: str, run: str | None, words: Sequence[str], *, output: OutputFormat) -> None:
    """Become the trainer's verb about a run, with the node's cache that the run itself has used.

    Raises:
        InvalidConfig: there is no such run, or the trainer's libraries are not installed.
    """
    folder = locate(run).folder
    config = TrainingConfig.model_validate_json(folder.config.read_bytes())
    cache = cache_of_this_machine(config, os.environ)
    become_trainer([verb, "--config", str(folder.config), *words, "-o", output], env=cache)
