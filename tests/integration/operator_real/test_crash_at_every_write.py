"""The operator is killed before and after each of its writes: every life ends like the undisturbed one."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control_plane import kubectl
from crashing_proxy import CrashingProxy, Moment
from lives import SCENARIOS, Life
from operator_site import OperatorProcess, Site

from sam3ft_faults.record import Figures
from sam3ft_operator.rbac import LEASE_NAME

pytestmark = pytest.mark.timeout(3600)
SAMPLED = 2
"""Points of each scenario in `make test`; all of them in `make soak`."""


class Followed:
    """Operators that follow each other: each is killed where the proxy says, and the next one begins at once."""

    def __init__(self, site: Site, proxy: CrashingProxy, folder: Path) -> None:
        """Let the first operator start."""
        self._site = site
        site.kubeconfig = proxy.kubeconfig(site.kubeconfig, folder / "proxy.kubeconfig")
        self.operator: OperatorProcess = site.operator()
        self.operator.wait_until_ready()
        proxy.crash = self.crash

    def crash(self) -> None:
        """Kill the operator, let its Lease be over, and start the next one."""
        self.operator.kill()
        lease = (self._site.namespace, "delete", "lease", LEASE_NAME, "--ignore-not-found")
        kubectl(self._site.plane, "-n", *lease)
        self.operator = self._site.operator()


def lived(
    new_site: Callable[[], Site], folder: Path, scenario: str, *, crash_at: int = 0, moment: Moment = "before"
) -> tuple[dict[str, Any], int]:
    """Live one life; returns its end state and how many writes it took."""
    with new_site() as site, CrashingProxy(site.plane, crash_at=crash_at, moment=moment) as proxy:
        operators, life = Followed(site, proxy, site.folder), Life(site)
        SCENARIOS[scenario](life)
        state = life.end_state()
        assert {} == life.doubles(), f"{scenario}, {moment} write {crash_at}: {proxy.writes[crash_at - 1]}"
        operators.operator.terminate()
        return state, len(proxy.writes)


def compare(new_site: Callable[[], Site], folder: Path, scenario: str, *, points: int | None) -> int:
    """Crash at some points of a scenario, or at all; returns at how many."""
    undisturbed, num_writes = lived(new_site, folder, scenario)
    every: list[tuple[int, Moment]] = [(n, moment) for n in range(1, num_writes + 1) for moment in ("before", "after")]
    chosen = every if points is None else random.sample(every, points)
    for crash_at, moment in chosen:
        state, _ = lived(new_site, folder, scenario, crash_at=crash_at, moment=moment)
        assert undisturbed == state, f"{scenario}, {moment} write {crash_at} of {num_writes}"
    print(f"{scenario}: {num_writes} writes, {len(chosen)} crashes, each ended like the undisturbed life")
    return len(chosen)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_a_write_changes_nothing_about_the_end(
    new_site: Callable[[], Site], tmp_path: Path, scenario: str
) -> None:
    assert SAMPLED == compare(new_site, tmp_path, scenario, points=SAMPLED)


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_any_write_changes_nothing_about_the_end(
    new_site: Callable[[], Site], tmp_path: Path, figures: Figures, scenario: str
) -> None:
    points = compare(new_site, tmp_path, scenario, points=None)

    assert points >= 30
    figures.add("the operator killed before and after every write", seed=scenario, points=points, different_ends=0)
