"""The resource on a real API server: accepted, explained, defaulted, judged as pydantic judges it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, kubectl
from resource_server import ResourceServer
from spec_cases import SMALL, pydantic_verdict, resource, with_value

from sam3ft_api.crd import NAME
from sam3ft_api.spec import VERSION, SAM3FineTuneSpec
from sam3ft_api.yaml import read_yaml

pytestmark = pytest.mark.timeout(300)
EXAMPLES = Path(__file__).parents[3] / "examples"
SECTIONS = sorted(str(field.alias) for field in SAM3FineTuneSpec.model_fields.values())


@pytest.fixture
def server(cluster: ControlPlane, namespace: str) -> Iterator[ResourceServer]:
    """A connection."""
    with ResourceServer(cluster, namespace) as found:
        yield found


def test_the_api_server_accepts_the_definition_and_serves_it(cluster: ControlPlane) -> None:
    found = json.loads(kubectl(cluster, "get", "crd", NAME, "-o", "json"))

    states = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert {"NamesAccepted": "True", "Established": "True"} == states  # NonStructuralSchema would stand here
    assert [VERSION] == found["status"]["storedVersions"]


def test_explain_reads_well(cluster: ControlPlane) -> None:
    told = kubectl(cluster, "explain", "sft.spec.workers")

    assert "minNodes" in told
    assert "Nodes below which the run waits." in told.replace("\n     ", " ")


@pytest.mark.parametrize("section", ["", "spec", *(f"spec.{name}" for name in SECTIONS), "status"])
def test_explain_describes_every_field(cluster: ControlPlane, section: str) -> None:
    told = kubectl(cluster, "explain", f"sam3finetunes.{section}".rstrip("."), "--recursive=false")

    assert "DESCRIPTION:" in told
    known_to_everybody = ("apiVersion", "kind", "metadata")
    blocks = told.split("\n  ")
    undescribed = [
        block for block in blocks if "<no description>" in block and not block.startswith(known_to_everybody)
    ]
    assert [] == undescribed


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_accepted_as_it_stands_and_means_what_we_read(
    cluster: ControlPlane, namespace: str, path: Path, server: ResourceServer
) -> None:
    kubectl(cluster, "apply", "-n", namespace, "--server-side", "--validate=strict", "-f", str(path))

    written = read_yaml(path.read_text(), name=path.name).data
    name = written["metadata"]["name"]
    stored = server.get(name)
    assert SAM3FineTuneSpec.model_validate(written["spec"]) == SAM3FineTuneSpec.model_validate(stored["spec"])
    row = kubectl(cluster, "get", "-n", namespace, "sft", name, "-o", "wide", "--no-headers").split()
    assert (name, "kubernetes") == (row[0], row[2])


def test_an_unknown_field_is_refused_by_its_name_and_pruned_where_nobody_looks(
    cluster: ControlPlane, namespace: str, server: ResourceServer
) -> None:
    document = json.dumps(resource(with_value(SMALL, ("training", "learning_rate"), 0.1)))

    assert 'unknown field "spec.training.learning_rate"' in server.verdict(json.loads(document))
    kubectl(cluster, "create", "-n", namespace, "--validate=ignore", "-f", "-", stdin=document)
    assert "learning_rate" not in server.get("run")["spec"]["training"]


def test_any_setting_is_kept_in_training_config(server: ResourceServer) -> None:
    config = {"optim": {"ema_decay": 0.999, "betas": [0.9, 0.999]}, "no_such": {"thing": None}}

    stored = server.create(resource(with_value(SMALL, ("training", "config"), config)))
    assert config == stored["spec"]["training"]["config"]


def test_status_and_spec_are_written_apart(server: ResourceServer) -> None:
    server.create({**resource(SMALL), "status": {"phase": "Succeeded"}})
    assert "status" not in server.get("run")
    both = {"spec": {"suspend": True}, "status": {"phase": "Pending"}}
    assert 200 == server.patch("run", both, subresource="/status")[0]
    assert (False, "Pending") == (server.get("run")["spec"]["suspend"], server.get("run")["status"]["phase"])
    assert 1 == server.get("run")["metadata"]["generation"]
    assert 200 == server.patch("run", {"spec": {"suspend": True}, "status": {"phase": "Running"}})[0]

    assert (True, "Pending") == (server.get("run")["spec"]["suspend"], server.get("run")["status"]["phase"])
    assert 2 == server.get("run")["metadata"]["generation"]


def test_absent_fields_are_filled_in_and_the_columns_show(
    cluster: ControlPlane, namespace: str, server: ResourceServer
) -> None:
    stored = server.create(resource(SMALL))

    assert 20 == stored["spec"]["failurePolicy"]["maxRestarts"] * 2
    assert stored["spec"]["workers"]["terminationGracePeriodSeconds"] == 120
    status = {"phase": "Running", "summary": {"step": "3/10", "nodes": "1/1"}, "restarts": 2, "replicas": 1}
    assert 200 == server.patch("run", {"status": status}, subresource="/status")[0]
    table = kubectl(cluster, "get", "sft", "-n", namespace).splitlines()
    assert ["NAME", "PHASE", "STEP", "ETA", "LOSS", "AP", "NODES", "RESTARTS", "AGE"] == table[0].split()
    assert ["run", "Running", "3/10", "1/1", "2"] == table[1].split()[:-1]


def test_scale_sets_the_nodes_and_keeps_the_rules(
    cluster: ControlPlane, namespace: str, server: ResourceServer
) -> None:
    server.create(resource({**SMALL, "workers": {"maxNodes": 4}, "training": {"globalBatchSize": 8}}))

    kubectl(cluster, "scale", "-n", namespace, "sft/run", "--replicas=3")
    assert "3" == kubectl(cluster, "get", "-n", namespace, "sft/run", "-o", "jsonpath={.spec.workers.nodes}")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl(cluster, "scale", "-n", namespace, "sft/run", "--replicas=5")
    assert "minNodes <= nodes <= maxNodes" in refused.value.stderr


def test_what_decides_the_numbers_is_frozen_once_the_run_has_started(server: ResourceServer) -> None:
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


def test_hostile_documents_are_refused(server: ResourceServer) -> None:
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
