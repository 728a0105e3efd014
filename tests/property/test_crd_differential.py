"""pydantic, the stand-in and a real API server give the same verdict on any spec and on any change of one."""

import copy
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import apiserver
import pytest
from control_plane import ControlPlane, kubectl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resource_server import ResourceServer
from spec_cases import FULL, LEAVES, SMALL, assert_same_verdict, pydantic_verdict, resource, values_of, with_value
from spec_strategies import changed_specs, mutable_specs, ruled_specs

pytestmark = pytest.mark.timeout(3600)
NAMESPACE = "differential"
STATUSES: dict[str, dict[str, Any]] = {
    "new": {},
    "checking": {"phase": "Checking", "attempts": []},
    "running": {"phase": "Running", "attempts": [{"n": 1}]},
    "suspended": {"phase": "Suspended", "attempts": [{"n": 1}]},
    "failed": {"phase": "Failed", "attempts": [{"n": 1}]},
}


@pytest.fixture(scope="module")
def server(cluster: ControlPlane) -> Iterator[ResourceServer]:
    """A connection to a namespace in which every base of a change is stored."""
    cluster.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    with ResourceServer(cluster, NAMESPACE) as found:
        yield found
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def stored(server: ResourceServer) -> dict[str, dict[str, Any]]:
    """A full resource in each state, as the API server stores it."""
    for name, status in STATUSES.items():
        document = resource(FULL["spec"])
        document["metadata"]["name"] = name
        server.create(document)
        if status:
            code, answer = server.patch(name, {"status": status}, subresource="/status")
            assert code == 200, answer
    return {name: server.get(name) for name in STATUSES}


def assert_same(server: ResourceServer, spec: dict[str, Any]) -> bool:
    """Compare the verdicts of all three on a new resource; returns whether they accept it."""
    document = resource(spec)
    refused, accepted = server.verdict(document), assert_same_verdict(document)

    assert accepted == (not refused), f"API server: {refused}\npydantic and stand-in accept: {accepted}\nspec: {spec}"
    return accepted


def judge(server: ResourceServer, specs: st.SearchStrategy[dict[str, Any]], *, count: int) -> None:
    """Compare the verdicts on as many new resources."""
    tally: Counter[bool] = Counter()

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(spec=specs)
    def each(spec: dict[str, Any]) -> None:
        tally[assert_same(server, spec)] += 1

    each()
    print(f"{tally.total()} specs, the same verdict on each; {tally[True]} accepted")
    assert count <= tally.total() + count // 10  # hypothesis may find that there are no more
    assert 0.05 * count < tally[True] < 0.95 * count


CHANGES = changed_specs(base=FULL["spec"], most=2) | mutable_specs(FULL["spec"])


def judge_changes(server: ResourceServer, stored: dict[str, dict[str, Any]], *, count: int) -> None:
    """Compare the verdicts of API server and stand-in on as many changes of stored resources."""
    tally: Counter[tuple[str, bool]] = Counter()

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(name=st.sampled_from(sorted(STATUSES)), spec=CHANGES)
    def each(name: str, spec: dict[str, Any]) -> None:
        old = stored[name]
        new = {**old, "spec": spec}
        theirs, standing_in = server.verdict_on_change(new), apiserver.verdict(bare(new), bare(old))
        tally[name, not theirs] += 1
        assert bool(theirs) == bool(standing_in), f"{name}: API server: {theirs}\nstand-in: {standing_in}\nspec: {spec}"

    each()
    print(f"changes by state and acceptance: {dict(sorted(tally.items()))}")
    assert count < 1000 or len(tally) == 2 * len(STATUSES)  # each state has refused and accepted something
    assert 0.05 * count < sum(number for (_, accepted), number in tally.items() if accepted) < 0.95 * count


def bare(document: dict[str, Any]) -> dict[str, Any]:
    """Return a copy without what the API server adds to the metadata."""
    return {**copy.deepcopy(document), "metadata": {"name": document["metadata"]["name"]}}


def test_new_resources_have_the_same_verdict(server: ResourceServer) -> None:
    judge(server, changed_specs(), count=200)


def test_rules_over_several_fields_have_the_same_verdict(server: ResourceServer) -> None:
    judge(server, ruled_specs(), count=200)


def test_changes_have_the_same_verdict(server: ResourceServer, stored: dict[str, dict[str, Any]]) -> None:
    judge_changes(server, stored, count=200)


def borders() -> list[tuple[tuple[str, ...], Any]]:
    """Every field with every value worth trying in it, and with every type."""
    return [(path, value) for path in LEAVES for value in values_of(path)]


def test_some_borders_of_fields_have_the_same_verdict(server: ResourceServer) -> None:
    for path, value in random.sample(borders(), 300):
        assert_same(server, with_value(SMALL, path, value))


@pytest.mark.soak
def test_every_border_of_every_field_has_the_same_verdict(server: ResourceServer) -> None:
    accepted = sum(assert_same(server, with_value(SMALL, path, value)) for path, value in borders())

    print(f"{len(borders())} specs, the same verdict on each; {accepted} accepted")


@pytest.mark.soak
def test_thousands_of_new_resources_have_the_same_verdict(server: ResourceServer) -> None:
    judge(server, changed_specs(), count=3000)
    judge(server, ruled_specs(), count=2000)


@pytest.mark.soak
def test_thousands_of_changes_have_the_same_verdict(server: ResourceServer, stored: dict[str, dict[str, Any]]) -> None:
    judge_changes(server, stored, count=3000)


@pytest.mark.parametrize("spec", [None, [], "x", 1, {}, {"model": None, "data": None}, SMALL], ids=str)
def test_whole_documents_have_the_same_verdict(server: ResourceServer, spec: Any) -> None:
    documents = [
        {**resource(SMALL), "spec": spec},
        {**resource(SMALL), "spec": spec, "bogus": 1},
        {**resource(SMALL), "spec": spec, "Spec": {}},
    ]

    for document in documents:
        assert bool(server.verdict(document)) == bool(pydantic_verdict(document)), document
