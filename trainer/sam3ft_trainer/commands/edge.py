"""The process edge of every verb: exceptions become exit codes and one message, never a traceback for user errors."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable

from sam3ft_api.errors import UserError
from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_trainer.run.worker import classify

Verb = Callable[[argparse.Namespace], int]


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """Add `-o text|json`; with json, standard output holds one JSON document and nothing else."""
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="text for people, json for machines"
    )


def guarded(verb: Verb, arguments: argparse.Namespace) -> int:
    """Run a verb and return its exit code.

    Errors go to standard error as one message; with `-o json` also to standard output as
    `{"code": ..., "reason": ..., "message": ...}`. Only internal errors show a traceback.
    """
    try:
        return verb(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the process edge: every error becomes an exit code
        code, message = classify(error)
        if code == ExitCode.INTERNAL_ERROR:
            traceback.print_exc()
        rule = rule_for(code)
        sys.stderr.write(f"error: {message}\n")
        if isinstance(error, UserError):
            sys.stderr.write(f"({rule.reason}, exit code {int(code)})\n")
        if getattr(arguments, "output", "text") == "json":
            sys.stdout.write(json.dumps({"code": int(code), "reason": rule.reason, "message": message}) + "\n")
        return int(code)
