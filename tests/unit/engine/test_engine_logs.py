"""Log lines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from sam3ft_operator import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged; the logging of the tests comes back afterwards."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    found = io.StringIO()
    logs.set_up(stream=found)
    yield found
    root.handlers[:], _ = before
    root.setLevel(before[1])


def test_a_message_stays_on_its_line(stream: io.StringIO) -> None:
    logging.getLogger("sam3ft_operator.x").warning("from %s", 'a\n{"level": "error"}\r\x1b[2J\u2028')
    [line] = stream.getvalue().splitlines()

    assert ("warning", "sam3ft_operator.x") == (json.loads(line)["level"], json.loads(line)["logger"])
    assert 'from a\n{"level": "error"}  [2J' == json.loads(line)["message"]
    assert line.isascii()


def test_a_secret_does_not_stay_in_a_line(stream: io.StringIO) -> None:
    logging.getLogger("sam3ft_operator").error("secret_access_key=abcdef and Bearer abcdefghijkl")

    assert "abcdef" not in stream.getvalue()


def test_an_error_comes_with_its_traceback_on_the_same_line(stream: io.StringIO) -> None:
    try:
        int("no\nway")
    except ValueError:
        logging.getLogger("sam3ft_operator").exception("it failed")
    [line] = stream.getvalue().splitlines()

    assert "ValueError: invalid literal" in json.loads(line)["error"]


def test_libraries_are_quiet(stream: io.StringIO) -> None:
    logging.getLogger("kopf.objects").info("Handler 'seen' succeeded.")
    logging.getLogger("urllib3.connectionpool").info("Starting new HTTPS connection")

    assert "" == stream.getvalue()
