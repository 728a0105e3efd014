"""The API server refuses, forgets to answer, and garbles watches: every life ends like the undisturbed one."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from faulty_proxy import Faults, FaultyProxy
from forwarding_proxy import WRITES
from lives import Deployment, Life, everything
from operator_site import Site

pytestmark = pytest.mark.timeout(3600)
RESYNC_S = 5
"""Seconds between two complete lists: what a watch has not shown is seen after that."""
SEEDS = 5
WRITES_AGAIN = 3
"""How many times as many writes as in the undisturbed life a life may take."""
CALLS_A_SECOND = 6.0
"""Calls that a life may take for each of its seconds: lists and watches of six kinds, each again after a fault."""

FAMILIES = {
    "dropped events": Faults(watches=("drop",), share=0.6),
    "repeated events": Faults(watches=("repeat",)),
    "delayed events": Faults(watches=("delay",)),
    "cut streams": Faults(watches=("cut",)),
    "error events": Faults(watches=("error",)),
    "conflicts": Faults(requests=("conflict",)),
    "expired": Faults(requests=("gone",), share=0.6),  # watches and second pages alone can expire, and they are few
    "too many requests": Faults(requests=("busy",)),
    "internal errors": Faults(requests=("internal error",)),
    "unavailable": Faults(requests=("unavailable",)),
    "lost answers": Faults(requests=("no answer",)),
    "outages of 20 s": Faults(requests=("unavailable", "no answer"), share=0.0, outage_s=20.0),
    "hangs of 60 s": Faults(requests=("hang",), share=0.1, hang_s=60.0),
    "all at once": Faults(
        requests=("conflict", "gone", "busy", "internal error", "unavailable", "no answer"),
        watches=("drop", "repeat", "delay", "cut", "error"),
        share=0.2,
    ),
}
MIXED = {
    "faults of watches": Faults(watches=("drop", "repeat", "delay", "cut", "error")),
    "faults of requests": Faults(
        requests=("conflict", "gone", "busy", "internal error", "unavailable", "no answer"), share=0.2
    ),
    "outages of 6 s": Faults(requests=("unavailable", "no answer"), share=0.0, outage_s=6.0),
    "hangs of 2 s": Faults(requests=("hang",), share=0.1),
}
"""What `make test` tries: families together, in few lives."""


@dataclass(frozen=True)
class Lived:
    """What a life has come to.

    Attributes:
        end: everything that must not depend on faults.
        created: how often each object was created, by the audit log.
        calls: of the operators, by method.
        took_s: seconds from the first start of an operator to the end.
        exits: exit codes of operators that ended by themselves.
        lost: how often an operator has said that the Lease is lost.
        faults: how many were done.
    """

    end: dict[str, Any]
    created: Counter[tuple[str, str]]
    calls: Counter[str]
    took_s: float
    exits: list[int]
    lost: int
    faults: int

    @property
    def writes(self) -> int:
        """Calls that change something."""
        return sum(count for verb, count in self.calls.items() if verb in WRITES)


def lived(new_site: Callable[[], Site], faults: Faults, *, seed: int) -> Lived:
    """Live one life through a faulty API server; its pods and its user have a good one."""
    with new_site() as site, FaultyProxy(site.plane, faults, seed=seed) as proxy:
        site.patience = 3.0 + faults.hang_s / 10
        site.kubeconfig = proxy.kubeconfig(site.kubeconfig, site.folder / "proxy.kubeconfig")
        begun_s = time.monotonic()
        life = Life(site)
        with Deployment(site, "--resync-seconds", str(RESYNC_S)) as operators:
            operators.wait_until_ready()
            everything(life)
            end = life.end_state()
            took_s = time.monotonic() - begun_s
        lost = sum("the Lease is lost" in process.log.read_text() for process in site.processes)
        assert [] == operators.unhealthy
        print(f"seed {seed}: {dict(proxy.done)}")
        return Lived(end, life.created(), proxy.calls, took_s, operators.exits, lost, proxy.done.total())


_UNDISTURBED: list[Lived] = []


def undisturbed(new_site: Callable[[], Site]) -> Lived:
    """Return the life without faults, lived once."""
    if not _UNDISTURBED:
        _UNDISTURBED.append(lived(new_site, Faults(), seed=0))
    return _UNDISTURBED[0]


def compare(new_site: Callable[[], Site], name: str, faults: Faults, *, seed: int) -> None:
    """Live a life through faults and hold it against the undisturbed one."""
    expected = undisturbed(new_site)
    found = lived(new_site, faults, seed=seed)
    for what, one in (("undisturbed", expected), (f"{name}, seed {seed}", found)):
        print(
            f"{what}: {one.calls.total()} calls in {one.took_s:.0f} s, {one.writes} of them writes, "
            f"{len(one.exits)} restarts"
        )

    assert found.faults > 5
    assert expected.end == found.end
    assert expected.created == found.created
    assert [1] * found.lost == found.exits, "an operator ended for another reason than the Lease"
    assert found.writes <= WRITES_AGAIN * expected.writes
    assert found.calls.total() <= expected.calls.total() + CALLS_A_SECOND * found.took_s


@pytest.mark.parametrize("name", MIXED)
def test_faults_change_nothing_about_the_end(new_site: Callable[[], Site], name: str) -> None:
    compare(new_site, name, MIXED[name], seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
@pytest.mark.parametrize("name", FAMILIES)
def test_each_fault_changes_nothing_about_the_end(new_site: Callable[[], Site], name: str, seed: int) -> None:
    compare(new_site, name, FAMILIES[name], seed=seed)
