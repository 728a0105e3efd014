"""`tails`: the last lines of the ranks that failed, from beside a run's checkpoints."""

import argparse
import json
import os
import sys
from dataclasses import asdict

from sam3ft_api.storage import DEFAULT_PROFILE
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.tails import LogTail, read_tails
from sam3ft_trainer.store.uri import open_store


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("address", help="checkpoint.uri of the run")
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="storage profile by which the bucket is reached")
    parser.add_argument("--newest", type=int, default=4, metavar="N", help="ends to show (default: %(default)s)")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the kept lines of the newest ends, newest last; nothing when none are kept.

    Raises:
        InvalidConfig: the address or the profile is wrong.
        StorageDenied, StorageUnavailable: as the store says.
    """
    store = open_store(arguments.address, access=run_access(StorageConfig(profile=arguments.profile), os.environ))
    found = list(reversed(read_tails(store, newest=max(1, arguments.newest))))
    if arguments.output == "json":
        sys.stdout.write(json.dumps({"tails": [asdict(tail) for tail in found]}) + "\n")
    else:
        sys.stdout.write("".join(f"{headline(tail)}\n{tail.text.rstrip()}\n" for tail in found))
    return 0


def headline(tail: LogTail) -> str:
    """Return one line that says whose lines follow."""
    when = f"{tail.when[:4]}-{tail.when[4:6]}-{tail.when[6:8]} {tail.when[9:11]}:{tail.when[11:13]}:{tail.when[13:15]}"
    how = "killed" if tail.end == "killed" else f"code {tail.end}"
    return f"--- attempt {tail.attempt}, rank {tail.rank}, {how}, {when} UTC"
