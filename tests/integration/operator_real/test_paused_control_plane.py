"""etcd or the API server stand still: runs go on afterwards, the operator lives, and keeps the Lease or begins anew."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from definitions import apply_crds
from lives import Deployment, Life
from operator_site import Site

pytestmark = pytest.mark.timeout(1200)
NAMESPACE = "paused"


@pytest.fixture
def own_site(cluster: ControlPlane, tmp_path: Path) -> Iterator[Site]:
    """A namespace of a control plane whose parts can be paused; `cluster` tells whether the machine can have one."""
    with ControlPlane(tmp_path, definitions=apply_crds) as plane:
        plane.start_kwok(nodes=2)
        plane.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        with Site(plane, NAMESPACE, tmp_path) as site:
            yield site


def stand_still(site: Site, program: str, pause_s: float) -> None:
    """Freeze a part of the control plane for a while."""
    site.plane.program(program).pause()
    time.sleep(pause_s)
    site.plane.program(program).go_on()
    site.plane.wait_until_ready()


def live_through(site: Site, program: str, pause_s: float) -> None:
    """Let a part stand still while a run is checked, and again while it trains; a Deployment keeps the operator."""
    site.patience = 3.0
    life = Life(site)
    with Deployment(site) as operators:
        operators.wait_until_ready()
        life.apply()
        life.check()
        stand_still(site, program, pause_s)
        life.workers()
        stand_still(site, program, pause_s)
        life.succeed(life.workers())
        end = life.end_state()
        lost = sum("the Lease is lost" in process.log.read_text() for process in site.processes)
        print(f"{program} stood still twice for {pause_s:g} s: the operator was started {len(site.processes)} times")

        assert [] == operators.unhealthy
    assert [1] * lost == operators.exits
    assert ("Succeeded", [(1, "Succeeded", 0)]) == (end["phase"], end["attempts"])
    assert {} == life.doubles()


def test_etcd_stands_still_for_some_seconds(own_site: Site) -> None:
    live_through(own_site, "etcd", 8.0)


@pytest.mark.soak
@pytest.mark.parametrize(("program", "pause_s"), [("etcd", 30.0), ("kube-apiserver", 60.0)])
def test_a_part_stands_still_for_long(own_site: Site, program: str, pause_s: float) -> None:
    live_through(own_site, program, pause_s)
