"""`sam3ft version`: what is installed."""

import importlib.metadata
import platform

from sam3ft_launch.cli.output import OutputFormat, OutputOption, emit

_DISTRIBUTION = "sam3ft"


def version(output: OutputOption = OutputFormat.TEXT) -> None:
    """Show the versions of sam3ft and Python."""
    own = importlib.metadata.version(_DISTRIBUTION)
    if output is OutputFormat.JSON:
        emit(sam3ft=own, python=platform.python_version())
    else:
        print(f"sam3ft {own} (Python {platform.python_version()})")
