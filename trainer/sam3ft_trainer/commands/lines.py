"""`lines`: what a run on a SLURM site has said, from beside its checkpoints."""

import argparse
import json
import os
import sys

from sam3ft_api.storage import DEFAULT_PROFILE
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.kept_log import newest_lines, read_on
from sam3ft_trainer.store.uri import open_store


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("address", help="checkpoint.uri of the run")
    parser.add_argument("owner", help="uid of its resource")
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="storage profile by which the bucket is reached")
    parser.add_argument(
        "--newest", type=int, default=100, metavar="N", help="lines to begin with (default: %(default)s)"
    )
    parser.add_argument("--start", type=int, metavar="BYTE", help="go on from where an earlier answer ended, instead")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print kept lines, oldest first; with `-o json` one object: `lines`, and `next` for the next call's `--start`.

    Raises:
        InvalidConfig: the address or the profile is wrong.
        StorageDenied, StorageUnavailable: as the store says.
    """
    store = open_store(arguments.address, access=run_access(StorageConfig(profile=arguments.profile), os.environ))
    if arguments.start is None:
        lines, end = newest_lines(store, owner=arguments.owner, lines=max(0, arguments.newest))
    else:
        lines, end = [], max(0, arguments.start)
        for text, reached in read_on(store, owner=arguments.owner, start=end):
            lines += text.splitlines()
            end = reached
    if arguments.output == "json":
        sys.stdout.write(json.dumps({"lines": lines, "next": end}) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0
