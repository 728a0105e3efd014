"""Log lines as JSON, one object a line: nothing that is logged can begin a line of its own, and no secret stays in."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO

from sam3ft_operator.views import clean

MAX_CHARS = 8192
"""Characters of one message; a traceback is cut as well."""


class JsonLines(logging.Formatter):
    """Formats a record as one line of ASCII JSON: time, level, logger, message, and error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clean(record.getMessage(), max_chars=MAX_CHARS),
        }
        if record.exc_info:
            line["error"] = clean(self.formatException(record.exc_info), max_chars=MAX_CHARS)
        return json.dumps(line)


def set_up(*, verbose: bool = False, stream: IO[str] | None = None) -> None:
    """Send all logging of this process to a stream as JSON lines.

    Args:
        verbose: debug messages of our own as well.
        stream: standard error without one.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("sam3ft_operator").setLevel(logging.DEBUG if verbose else logging.INFO)
    # kopf tells of every event of every object, urllib3 of every connection.
    for name in ("kopf", "urllib3", "kubernetes", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns that it handles no signals, which is meant: the program does.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
