"""`fetch`: copy published weights into a folder or a bucket, verified."""

import argparse
import json
import os
import sys

from sam3ft_api.storage import DEFAULT_PROFILE
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.run.fetch import Fetched, fetch_model
from sam3ft_trainer.store.access import data_access, run_access

_MIB = 1 << 20
_SHOWN = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("source", metavar="SRC", help="hf://ORG/NAME[@REVISION], a folder or a bucket address")
    parser.add_argument("destination", metavar="DST", help="a folder or a bucket address to copy into")
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="storage profile of the destination")
    parser.add_argument("--data-profile", default=DEFAULT_PROFILE, help="storage profile of the source")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Copy, verify and print what lies where."""
    fetched = fetch_model(
        arguments.source,
        arguments.destination,
        say=_tell,
        reading=data_access(StorageConfig(data_profile=arguments.data_profile), os.environ),
        writing=run_access(StorageConfig(profile=arguments.profile), os.environ),
    )
    if arguments.output == "json":
        document = {
            "source": fetched.source,
            "destination": fetched.destination,
            "model": fetched.model,
            "bytes": fetched.num_bytes,
            "files": fetched.files,
            "left_out": list(fetched.left_out),
            "verified_by": fetched.verified_by,
            "seconds": round(fetched.seconds, 3),
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write("\n".join(lines(fetched)) + "\n")
    return 0


def lines(fetched: Fetched) -> list[str]:
    """Return the account for people."""
    checked = (
        f"compared with {fetched.verified_by}" if fetched.verified_by else "the source has no hashes to compare with"
    )
    said = [
        f"source  {fetched.source}",
        f"copy    {fetched.destination}: {fetched.model}",
        *(f"        {name:<34} {entry['bytes'] / _MIB:10.2f} MiB" for name, entry in fetched.files.items()),
        f"sha256  read back and equal to the source; {checked}",
    ]
    if fetched.left_out:
        more = f" and {len(fetched.left_out) - _SHOWN} more" if len(fetched.left_out) > _SHOWN else ""
        said.append(f"left out, as training does not read them: {', '.join(fetched.left_out[:_SHOWN])}{more}")
    return [*said, f"train with it: model.uri: {fetched.destination}"]


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
