"""`report`: one page about a run from what lies in its work folder, also while it goes on or after it has failed."""

import argparse
import json
import sys
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.evaluate.report.build import EVENTS, REPORT, build_report


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("work_dir", type=Path, help="work folder of the run")
    parser.add_argument("--config", type=Path, help="config document of the run (default: config.json of the folder)")
    parser.add_argument("--to", type=Path, help="file to write (default: report.html of the folder)")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is.

    Raises:
        InvalidConfig: nothing has been logged there, or a file is of another form.
        StorageDenied: the page cannot be written.
    """
    work_dir: Path = arguments.work_dir
    out: Path = arguments.to or work_dir / REPORT
    if not (work_dir / EVENTS).is_file():
        raise InvalidConfig(
            f"{work_dir / EVENTS} is not there: the run has logged nothing yet, or this is no work folder"
        )
    try:
        build_report(work_dir, out, config=arguments.config)
    except ValidationError as error:
        raise InvalidConfig(
            f"a file of {work_dir} is of another form, perhaps from another version: {error.title}, "
            f"{error.errors(include_url=False, include_input=False)[0]['msg']}"
        ) from None
    except OSError as error:
        raise StorageDenied(f"{out} cannot be written: {error.strerror}") from error
    sys.stdout.write((json.dumps({"report": str(out)}) if arguments.output == "json" else str(out)) + "\n")
    return 0
