"""What verbs print: people read standard output as text, machines as JSON lines (`-o json`), errors go to both."""

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from sam3ft_api.errors import Sam3ftError
from sam3ft_api.exit_codes import rule_for

MAX_MESSAGE_CHARS = 4096


class OutputFormat(StrEnum):
    """For whom a verb prints."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="`text` for people, `json` for one JSON object a line.")
]


def console() -> Console:
    """Return a console on today's standard output: colours and bars on a terminal, plain text elsewhere.

    Text is printed as it is: brackets in other people's messages are no markup.
    """
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def emit(**fields: Any) -> None:
    """Write one JSON line to standard output; pydantic models, paths and enums are allowed as values."""
    print(json.dumps(fields, default=_plain, allow_nan=False), flush=True)


def say(text: str, *, output: OutputFormat, **fields: Any) -> None:
    """Tell the same to whoever reads: `text` to people, `fields` as one JSON line to machines."""
    if output is OutputFormat.JSON:
        emit(**fields)
    else:
        print(text, flush=True)


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(name, value)
    console().print(table)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def report_error(error: Sam3ftError, *, output: OutputFormat) -> int:
    """Print one clear message and return the exit code.

    The text goes to standard error; with JSON the same is also one line on standard output.
    """
    code = int(error.code)
    reason = rule_for(code).reason
    message = str(error)[:MAX_MESSAGE_CHARS]
    if output is OutputFormat.JSON:
        emit(event="error", code=code, reason=reason, message=message)
    print(f"sam3ft: {message}\n({reason}, exit code {code})", file=sys.stderr)
    return code
