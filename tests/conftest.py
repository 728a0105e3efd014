"""What all tests stand on."""

import datetime as dt
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_planes import end_control_planes
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from sam3ft_api.worker import ENV_CACHE_DIR
from sam3ft_faults.record import Figures, figures_file, this_machine

pytest_plugins = ["component_fixtures", "cluster_fixtures", "image_fixtures", "slurm_fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the golden files be written anew: look at what has changed before it is committed."""
    parser.addoption("--write-golden", action="store_true", help="write tests/golden anew")
    parser.addoption("--draw-dashboards", metavar="DIR", help="leave pages of the dashboards, as drawn from live data")


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test, also when the suite was started in the background.

    A shell starts background jobs with SIGINT ignored, children inherit that, and programs rightly honour it.
    """
    os.environ.setdefault(ENV_CACHE_DIR, "")  # the user's own cache stays out of tests, unless one asks for it
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How fast an example is drawn or checked says more of what else a machine does than of the test.
    settings.register_profile("busy", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
    settings.load_profile("busy")


TESTS = Path(__file__).parent
ALONE = ("perf", "integration/elastic", "integration/launcher", "observability/test_live_dashboards.py")
"""Places whose tests measure time: they are not run beside others."""
PAIRED = ("faults",)
"""Folders whose tests each keep a core busy, and measure no time: as many are run together as there are cores."""
WITH_CLUSTER = {
    "queues": (
        "integration/cluster/test_kueue.py",
        "integration/operator_real/test_kueue_with_operator.py",
        "integration/operator_real/test_rights.py",
    ),
    "operators": ("integration/operator_real",),
    "clusters": (
        "chart",
        "integration/cluster",
        "integration/kubelet",
        "integration/slurm_agent",
        "property/test_crd_differential.py",
    ),
}
"""Tests that need a control plane, by the process that runs them: each has one of its own. The first match counts."""
YIELDING = 5
"""Niceness of what needs no control plane: those tests keep cores busy, while the others mostly wait for answers."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that may not run beside others."""
    path = item.path.relative_to(TESTS).as_posix()
    if _is_in(path, ALONE):
        item.add_marker(pytest.mark.alone)
    if _is_in(path, PAIRED):
        item.add_marker(pytest.mark.paired)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes longest begin first, whatever order was drawn: control planes, then files with slow tests."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}

    def turn(item: pytest.Item) -> tuple[bool, bool]:
        return _cluster_of(item) is None, item.path not in slow

    items.sort(key=turn)
    _restore_order(items)


def _restore_order(items: list[pytest.Item]) -> None:
    """Let tests of a file that go on from each other stand as they were written, at the places that the file has."""
    places: dict[Path, list[int]] = {}
    for place, item in enumerate(items):
        if item.get_closest_marker("in_order") is not None:
            places.setdefault(item.path, []).append(place)
    for found in places.values():
        for place, item in zip(found, sorted((items[place] for place in found), key=_written), strict=True):
            items[place] = item


def _written(item: pytest.Item) -> tuple[int, str]:
    return item.location[1] or 0, item.name


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let those go first that wait for others most of the time; what a test starts has its niceness."""
    if _is_beside_others() and _cluster_of(item) is None:
        os.setpriority(os.PRIO_PROCESS, 0, max(YIELDING, os.getpriority(os.PRIO_PROCESS, 0)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End the control planes of a process with the last test that needs them: idle, one takes a fifth of a core."""
    yield
    follows = None if nextitem is None else _cluster_of(nextitem)
    if _is_beside_others() and _cluster_of(item) not in {None, follows}:
        end_control_planes()


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # published without types
    """Gives each file to one process, for what its tests share, and all that share a control plane to one."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0].removeprefix("tests/")
        if _is_in(path, PAIRED):
            return nodeid
        return _cluster_at(path) or path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Say which process runs which tests, when the suite runs in several."""
    return ByFile(config, log)


def _is_beside_others() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def _cluster_of(item: pytest.Item) -> str | None:
    return _cluster_at(item.path.relative_to(TESTS).as_posix())


def _cluster_at(path: str) -> str | None:
    return next((cluster for cluster, places in WITH_CLUSTER.items() if _is_in(path, places)), None)


def _is_in(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Collects what soak tests have done; written to the benchmarks when the session ends, if there is anything."""
    collected = Figures(figures_file(TESTS.parent / "docs/benchmarks.md", os.environ))
    yield collected
    collected.write(now=dt.datetime.now(tz=dt.UTC), machine=this_machine())
