"""What all tests stand on."""

import datetime as dt
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sam3ft_api.worker import ENV_CACHE_DIR
from sam3ft_faults.record import Figures, figures_file, this_machine

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


TESTS = Path(__file__).parent
ALONE = ("faults", "perf", "integration/elastic", "integration/launcher")
"""Folders whose tests measure time, or load every core themselves: they are not run beside others."""
CLUSTERS = frozenset({"cluster", "kueue_cluster"})
"""Fixtures that start a control plane."""
GROUP = "cluster"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Say which tests share a process when the suite runs in several, and which may not run beside others.

    Tests of a file stay together, for what they share, and all those that need a control plane.
    """
    path = item.path.relative_to(TESTS).as_posix()
    if path.startswith(tuple(f"{folder}/" for folder in ALONE)):
        item.add_marker(pytest.mark.alone)
    needs_cluster = not CLUSTERS.isdisjoint(getattr(item, "fixturenames", ()))
    item.add_marker(pytest.mark.xdist_group(GROUP if needs_cluster else path))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the largest group begin first, whatever order was drawn: it mostly waits, and would come last alone."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args[0] != GROUP)  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Collects what soak tests have done; written to the benchmarks when the session ends, if there is anything."""
    collected = Figures(figures_file(TESTS.parent / "docs/benchmarks.md", os.environ))
    yield collected
    collected.write(now=dt.datetime.now(tz=dt.UTC), machine=this_machine())
