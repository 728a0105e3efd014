"""Every store as a parameter; each server is started once for the session, by the first test that asks for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from ceph_site import rgw_site
from s3_server import S3Server
from store_sites import SITES, Site

from sam3ft_faults.proxy import FaultProxy
from sam3ft_trainer.store.objects import Store

_ALL = {**SITES, "rgw": rgw_site}
EVERYWHERE = [pytest.param(name, marks=[pytest.mark.slow] if name == "rgw" else []) for name in _ALL]
"""The name of every store; the Ceph cluster takes half a minute to come up."""


@pytest.fixture(scope="session")
def start_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Site]]:
    """Start the store of a name, once."""
    started: dict[str, Site] = {}
    with ExitStack() as stack:

        def start(name: str) -> Site:
            if name not in started:
                started[name] = stack.enter_context(_ALL[name](tmp_path_factory.mktemp(name)))
            return started[name]

        yield start


@pytest.fixture(params=EVERYWHERE)
def site(request: pytest.FixtureRequest, start_site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    """Each store in turn."""
    found = start_site(request.param)
    for name, value in found.process.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def store(site: Site) -> Store:
    """A prefix of it that nobody has used."""
    return site.fresh()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """What stands before the session's S3 server and may delay, spoil or lose what passes."""
    with FaultProxy(s3_server.endpoint) as standing:
        yield standing
