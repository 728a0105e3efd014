"""`report`: one page about a run, from its work folder or from what is kept beside its checkpoints, at any time."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_api.files import write_atomically
from sam3ft_api.storage import DEFAULT_PROFILE
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.evaluate.report.build import EVENTS, REPORT, build_report
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.kept_report import KeptReport, read_report
from sam3ft_trainer.store.uri import open_store


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("work_dir", type=Path, nargs="?", help="work folder of the run")
    parser.add_argument("--kept-at", metavar="ADDRESS", help="checkpoint.uri of the run, in place of a work folder")
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="storage profile by which that address is reached")
    parser.add_argument("--config", type=Path, help="config document of the run (default: config.json of the folder)")
    parser.add_argument("--to", type=Path, help="file to write (default: report.html of the work folder)")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is.

    Raises:
        InvalidConfig: nothing has been logged or kept there, or a file is of another form.
        StorageDenied: the page cannot be written, or the address not be read.
        StorageUnavailable: as the store says.
    """
    if (arguments.work_dir is None) == (arguments.kept_at is None):
        raise InvalidConfig("name the work folder of a run, or with --kept-at the address of its checkpoints")
    if arguments.kept_at is not None and arguments.to is None:
        raise InvalidConfig("--kept-at needs --to, the file to write")
    out: Path = arguments.to or arguments.work_dir / REPORT
    try:
        if arguments.kept_at is not None:
            _from_store(arguments.kept_at, out, profile=arguments.profile)
        else:
            _from_folder(arguments.work_dir, out, config=arguments.config)
    except ValidationError as error:
        raise InvalidConfig(
            f"a file of {arguments.kept_at or arguments.work_dir} is of another form, perhaps from another version: "
            f"{error.title}, {error.errors(include_url=False, include_input=False)[0]['msg']}"
        ) from None
    except OSError as error:
        raise StorageDenied(f"{out} cannot be written: {error.strerror}") from error
    sys.stdout.write((json.dumps({"report": str(out)}) if arguments.output == "json" else str(out)) + "\n")
    return 0


def _from_folder(work_dir: Path, out: Path, *, config: Path | None) -> None:
    if not (work_dir / EVENTS).is_file():
        raise InvalidConfig(
            f"{work_dir / EVENTS} is not there: the run has logged nothing yet, or this is no work folder"
        )
    build_report(work_dir, out, config=config)


def _from_store(address: str, out: Path, *, profile: str) -> None:
    """Write the page that the run has made at its end; before that one from what is kept of it until now."""
    kept = read_report(open_store(address, access=run_access(StorageConfig(profile=profile), os.environ)))
    if kept.page is not None:
        write_atomically(out, kept.page.decode())
        return
    if not kept.events:
        raise InvalidConfig(
            f"{address} keeps nothing to report: no worker of the run has begun to train yet, or it was one of an "
            "earlier version"
        )
    with tempfile.TemporaryDirectory(prefix="sam3ft-report-") as folder:
        _unfold(kept, Path(folder))
        build_report(Path(folder), out)


def _unfold(kept: KeptReport, folder: Path) -> None:
    for name, content in {EVENTS: kept.events, **kept.documents}.items():
        (folder / name).write_bytes(content)
