"""`keep`: keep what the logs of several runs hold, beside their checkpoints. Agents start it; people do not need it."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.kept_log import keep_piece, kept_from
from sam3ft_trainer.store.uri import open_store

AT_ONCE = 8
"""Logs that are kept at the same time."""
MOST_PIECES = 8
"""Of one log: others wait."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb; what is to be kept comes on standard input."""
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Keep the logs that standard input names, and say for each how far it is kept.

    One JSON object: `logs`, a list of objects with `log`, `address`, `profile`, `owner`, `start`, `look` (whether the
    store is to be asked what is kept from there on) and `is_over`. The answer has the same logs, each with `end`, and
    with `problem` where something was in the way. One that fails holds up no other.

    Raises:
        InvalidConfig: standard input is something else.
    """
    try:
        requests = [dict(request) for request in json.load(sys.stdin)["logs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidConfig(f"standard input names no logs: {error}") from error
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(_kept, requests))
    if arguments.output == "json":
        sys.stdout.write(json.dumps({"logs": answers}) + "\n")
    else:
        sys.stdout.write("".join(f"{answer['log']}: kept up to byte {answer['end']}\n" for answer in answers))
    return 0


def _kept(request: Mapping[str, Any]) -> dict[str, Any]:
    log, start, problem = str(request.get("log", "")), int(request.get("start", 0)), ""
    try:
        access = run_access(StorageConfig(profile=str(request["profile"])), os.environ)
        store = open_store(str(request["address"]), access=access)
        owner, is_over = str(request["owner"]), bool(request["is_over"])
        if request["look"]:
            start = kept_from(store, owner=owner, start=start)
        for _ in range(MOST_PIECES):
            begin, start = start, keep_piece(store, Path(log), owner=owner, start=start, is_over=is_over)
            if start == begin:
                break
    except (Sam3ftError, OSError, KeyError, ValueError) as error:
        problem = str(error)
    return {"log": log, "end": start, "problem": problem}
