"""`compose`: Hydra overrides in, the config document out."""

import argparse
import sys

from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.conf.compose import compose_config


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as scratch.resolution=504 model=sam3")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the composed and validated document as JSON."""
    config = compose_config(arguments.overrides)
    sys.stdout.write(config.model_dump_json(indent=2) + "\n")
    return 0
