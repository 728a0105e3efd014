"""What all tests stand on."""

import os
import signal

import pytest

from sam3ft_api.worker import ENV_CACHE_DIR

pytest_plugins = ["component_fixtures", "cluster_fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the golden files be written anew: look at what has changed before it is committed."""
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/kubernetes anew")


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test, also when the suite was started in the background.

    A shell starts background jobs with SIGINT ignored, children inherit that, and programs rightly honour it.
    """
    os.environ.setdefault(ENV_CACHE_DIR, "")  # the user's own cache stays out of tests, unless one asks for it
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
