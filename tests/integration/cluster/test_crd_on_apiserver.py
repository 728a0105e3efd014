"""The resource on a real API server: accepted, explained, defaulted, judged as pydantic judges it."""

import copy
import http.client
import json
import random
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import apiserver
import pytest
from control_plane import ControlPlane, kubectl
from spec_cases import ANY_TYPE, FULL, LEAVES, SMALL, candidates, pydantic_verdict, resource, with_value

from sam3ft_api.crd import NAME
from sam3ft_api.spec import GROUP, PLURAL, VERSION

pytestmark = pytest.mark.timeout(1200)
COLLECTION = f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}"


class Server:
    """One kept connection of the administrator: thousands of verdicts in a minute."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """Connect."""
        self._plane, self._path = plane, COLLECTION.format(namespace=namespace)
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        address = urlsplit(plane.url)
        self._connection = http.client.HTTPSConnection(str(address.hostname), address.port, context=context, timeout=60)

    def ask(self, method: str, path: str, document: Any, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
        """Return the status and the answer of one request."""
        headers = {"Authorization": f"Bearer {self._plane.admin_token}", "Content-Type": kind}
        self._connection.request(method, path, json.dumps(document), headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def verdict(self, document: dict[str, Any]) -> str:
        """Return why the API server refuses the resource under strict field validation; empty when it accepts it."""
        status, answer = self.ask("POST", f"{self._path}?dryRun=All&fieldValidation=Strict", document)
        return "" if status == 201 else f"{status} {answer['message']}"

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        """Store the resource and return it."""
        status, answer = self.ask("POST", f"{self._path}?fieldValidation=Strict", document)
        assert status == 201, answer
        return answer

    def patch(self, name: str, document: Any, *, subresource: str = "") -> tuple[int, dict[str, Any]]:
        """Return the status and the answer of a merge patch."""
        return self.ask("PATCH", f"{self._path}/{name}{subresource}", document, "application/merge-patch+json")


@pytest.fixture
def server(cluster: ControlPlane, namespace: str) -> Server:
    """A connection."""
    return Server(cluster, namespace)


def cases(seed: int) -> Iterator[dict[str, Any]]:
    """Yield resources without end: every field on its borders and with every type, and combinations of them."""
    draw = random.Random(seed)
    singles = [(path, value) for path in sorted(LEAVES) for value in (*candidates(path), *ANY_TYPE)]
    draw.shuffle(singles)
    while True:
        path, value = singles.pop() if singles and draw.random() < 0.6 else ((), None)
        spec: dict[str, Any] = copy.deepcopy(draw.choice([SMALL, FULL["spec"]]))
        changes = [(path, value)] if path else []
        for _ in range(0 if path else draw.randint(0, 4)):
            path = draw.choice(sorted(LEAVES))
            changes.append((path, draw.choice([*ANY_TYPE, *(candidates(path) * 3)])))
        for where, what in changes:
            spec = with_value(spec, where, what)
        yield resource(spec)


def compare(server: Server, *, count: int, seed: int) -> None:
    accepted = 0
    for _, document in zip(range(count), cases(seed), strict=False):
        theirs, ours = server.verdict(document), pydantic_verdict(copy.deepcopy(document))
        accepted += not theirs
        assert bool(theirs) == bool(ours), f"API server: {theirs}\npydantic: {ours}\nspec: {document['spec']}"
        assert bool(theirs) == bool(apiserver.verdict(document)), f"{theirs}\nthe stand-in differs: {document['spec']}"
    print(f"{count} specs, the same verdict on each; {accepted} accepted")
    assert 0.1 * count < accepted < 0.9 * count


def test_pydantic_and_the_stand_in_judge_as_the_api_server_does(server: Server) -> None:
    compare(server, count=300, seed=random.randrange(1 << 30))


@pytest.mark.soak
def test_pydantic_and_the_stand_in_judge_thousands_as_the_api_server_does(server: Server) -> None:
    compare(server, count=5000, seed=20261125)


def test_the_api_server_accepts_the_definition_and_serves_it(cluster: ControlPlane) -> None:
    found = json.loads(kubectl(cluster, "get", "crd", NAME, "-o", "json"))

    states = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert {"NamesAccepted": "True", "Established": "True"} == states  # NonStructuralSchema would stand here
    assert [VERSION] == found["status"]["storedVersions"]


def test_explain_reads_well(cluster: ControlPlane) -> None:
    told = kubectl(cluster, "explain", "sft.spec.workers")

    assert "minNodes" in told
    assert "Nodes below which the run waits." in told.replace("\n     ", " ")
    for line in kubectl(cluster, "explain", "sft.spec").splitlines():
        assert "<no description>" not in line, line


def test_absent_fields_are_filled_in_and_the_columns_show(
    cluster: ControlPlane, namespace: str, server: Server
) -> None:
    stored = server.create(resource(SMALL))

    assert 20 == stored["spec"]["failurePolicy"]["maxRestarts"] * 2
    assert stored["spec"]["workers"]["terminationGracePeriodSeconds"] == 120
    status = {"phase": "Running", "summary": {"step": "3/10", "nodes": "1/1"}, "restarts": 2, "replicas": 1}
    assert 200 == server.patch("run", {"status": status}, subresource="/status")[0]
    table = kubectl(cluster, "get", "sft", "-n", namespace).splitlines()
    assert ["NAME", "PHASE", "STEP", "ETA", "LOSS", "AP", "NODES", "RESTARTS", "AGE"] == table[0].split()
    assert ["run", "Running", "3/10", "1/1", "2"] == table[1].split()[:-1]


def test_scale_sets_the_nodes_and_keeps_the_rules(cluster: ControlPlane, namespace: str, server: Server) -> None:
    server.create(resource({**SMALL, "workers": {"maxNodes": 4}, "training": {"globalBatchSize": 8}}))

    kubectl(cluster, "scale", "-n", namespace, "sft/run", "--replicas=3")
    assert "3" == kubectl(cluster, "get", "-n", namespace, "sft/run", "-o", "jsonpath={.spec.workers.nodes}")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl(cluster, "scale", "-n", namespace, "sft/run", "--replicas=5")
    assert "minNodes <= nodes <= maxNodes" in refused.value.stderr


def test_what_decides_the_numbers_is_frozen_once_the_run_has_started(server: Server) -> None:
    server.create(resource(SMALL))

    assert 200 == server.patch("run", {"spec": {"training": {"learningRate": 0.001}}})[0]  # not started yet
    started = {"status": {"phase": "Running", "attempts": [{"n": 1}]}}
    assert 200 == server.patch("run", started, subresource="/status")[0]
    code, answer = server.patch("run", {"spec": {"training": {"learningRate": 0.002}}})
    assert (422, True) == (code, "spec.training cannot change after the run has started" in answer["message"])
    code, answer = server.patch("run", {"spec": {"export": {"uri": "s3://m/x"}}})
    assert (422, True) == (code, "set spec.suspend: true first" in answer["message"])
    for change in ({"suspend": True}, {"retry": 1}, {"activeDeadlineSeconds": 600}, {"ttlSecondsAfterFinished": 0}):
        assert 200 == server.patch("run", {"spec": change})[0], change
    assert 422 == server.patch("run", {"spec": {"retry": 0}})[0]
    assert 200 == server.patch("run", {"status": {"phase": "Suspended"}}, subresource="/status")[0]
    assert 200 == server.patch("run", {"spec": {"export": {"uri": "s3://m/x"}}})[0]


def test_hostile_documents_are_refused(server: Server) -> None:
    hostile = {
        "a megabyte": with_value(SMALL, ("data", "uri"), "s3://" + "a" * (1 << 20)),
        "interpolation": with_value(SMALL, ("data", "uri"), "s3://d/${oc.env:HOME}"),
        "a target": with_value(SMALL, ("data", "phrases"), {"_target_": ["os.system"]}),
        "control characters": with_value(SMALL, ("data", "uri"), "s3://d/a\u001b[2J"),
        "bidi characters": with_value(SMALL, ("workers", "image"), "evil\u202egpj"),
    }
    for name, spec in hostile.items():
        document = resource(spec)
        assert server.verdict(document), name
        assert pydantic_verdict(document), name
    # json of Python nests a thousand levels; the API server takes those, and what reads them has to refuse them.
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"x": deep}
    assert pydantic_verdict(resource(with_value(SMALL, ("training", "config"), deep)))
    named = resource(SMALL)
    named["metadata"]["name"] = "run\nname"
    assert server.verdict(named)
