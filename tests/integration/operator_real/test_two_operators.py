"""Two operators act on the same runs at once, as for seconds after a failover: runs end as with one, nothing twice."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from lives import SCENARIOS, Life, everything
from operator_site import Site
from waiting import wait_for

from sam3ft_operator.rbac import ROLE, lease_rules

pytestmark = pytest.mark.timeout(1200)
ANOTHER_LEASE = "another-lease"
REST_S = 5.0
ALL_SCENARIOS = {**SCENARIOS, "everything": everything}
VERBS = frozenset({"create", "update", "patch", "delete"})


def allow_another_lease(site: Site) -> None:
    """Let the operator's account hold a second Lease."""
    group, metadata = "rbac.authorization.k8s.io", {"name": ANOTHER_LEASE, "namespace": site.namespace}
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": lease_rules(ANOTHER_LEASE)}
    subject = {"kind": "ServiceAccount", "name": ROLE, "namespace": site.namespace}
    named = {"apiGroup": group, "kind": "Role", "name": ANOTHER_LEASE}
    binding = {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": named}
    site.make(role)
    site.make(binding | {"subjects": [subject]})


def num_writes(site: Site) -> int:
    """Return how much the operators of a site have written, their Leases apart."""
    return sum(call.verb in VERBS and call.resource != "leases" for call in site.calls())


def lived(
    new_site: Callable[[], Site], scenario: str, *, operators: int
) -> tuple[dict[str, Any], Counter[tuple[str, str]], int]:
    """Live one life; returns its end state, what was created how often, and how many writes it took."""
    with new_site() as site:
        allow_another_lease(site)
        started = [site.operator("--lease-name", name) for name in (ROLE, ANOTHER_LEASE)[:operators]]
        for operator in started:
            operator.wait_until_ready()
            wait_for("it leads", operator.is_leading)
        life = Life(site)
        ALL_SCENARIOS[scenario](life)
        end = life.end_state()
        wait_for("the last write", lambda: _rests(site), within_s=60)
        assert end == life.end_state()
        assert [None] * operators == [operator.ended_with() for operator in started]
        return end, life.created(), num_writes(site)


def _rests(site: Site) -> bool:
    """Tell whether nothing is written for a while, by the audit log."""
    before = num_writes(site)
    time.sleep(REST_S)
    return before == num_writes(site)


def compare(new_site: Callable[[], Site], scenario: str) -> None:
    """Live a life with one operator and with two."""
    end, created, writes = lived(new_site, scenario, operators=1)
    end_of_two, created_by_two, writes_of_two = lived(new_site, scenario, operators=2)
    print(f"{scenario}: {writes} writes of one operator, {writes_of_two} of two")

    assert end == end_of_two
    assert created == created_by_two
    assert writes_of_two <= 4 * writes


def test_a_run_with_two_operators_ends_as_with_one(new_site: Callable[[], Site]) -> None:
    compare(new_site, "everything")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("scenario", ALL_SCENARIOS)
def test_every_life_with_two_operators_ends_as_with_one(
    new_site: Callable[[], Site], scenario: str, number: int
) -> None:
    compare(new_site, scenario)
