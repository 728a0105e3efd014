"""What kwok plays: pods that run, end and wait as a test tells them, and nodes that fall silent."""

import json
import time
import uuid
from typing import Any

import pytest
from control_plane import ControlPlane, kubectl
from waiting import wait_until

UNREACHABLE = "node.kubernetes.io/unreachable"


class Pods:
    """Pods of one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """Know where."""
        self._plane, self._namespace = plane, namespace

    def create(self, name: str = "one", *, spec: dict[str, Any] | None = None, **annotations: str) -> None:
        """Create a pod that restricted namespaces take."""
        metadata = {"name": name, "annotations": {play(key): value for key, value in annotations.items()}}
        self._plane.post(
            f"/api/v1/namespaces/{self._namespace}/pods", {"metadata": metadata, "spec": template() | (spec or {})}
        )

    def tell(self, name: str = "one", **annotations: str | None) -> None:
        """Set annotations of a pod; None takes one away."""
        told = [f"{play(key)}-" if value is None else f"{play(key)}={value}" for key, value in annotations.items()]
        kubectl(self._plane, "annotate", "-n", self._namespace, "pod", name, *told)

    def get(self, name: str = "one") -> dict[str, Any] | None:
        """Return a pod; None when there is none."""
        found = kubectl(self._plane, "get", "-n", self._namespace, "pod", name, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found else None

    def phase(self, name: str = "one") -> str:
        """Return the phase of a pod that exists."""
        pod = self.get(name)
        assert pod is not None
        return str(pod["status"]["phase"])

    def state(self, name: str = "one") -> dict[str, Any]:
        """Return the state of the pod's container; empty while it has none."""
        pod = self.get(name)
        assert pod is not None
        states: list[dict[str, Any]] = [it["state"] for it in pod["status"].get("containerStatuses", [])]
        return states[0] if states else {}


@pytest.fixture
def pods(cluster: ControlPlane, namespace: str) -> Pods:
    """The pods of a fresh namespace."""
    return Pods(cluster, namespace)


def play(key: str) -> str:
    return f"play.sam3ft.dev/{key.replace('_', '-')}"


def template(**more: Any) -> dict[str, Any]:
    """The spec of a pod that restricted namespaces take."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": "registry.example/x:1", "securityContext": security}],
        **more,
    }


def test_a_pod_runs_until_it_is_told_its_exit_code_and_last_word(pods: Pods) -> None:
    pods.create()
    wait_until(lambda: pods.phase() == "Running")
    word = json.dumps({"code": 14, "message": 'NaN in "loss" \u00e9'})
    pods.tell(exit_code="14", message=word)
    wait_until(lambda: pods.phase() == "Failed")

    ended = pods.state()["terminated"]
    assert (14, word, "Error") == (ended["exitCode"], ended["message"], ended["reason"])


def test_a_pod_that_ends_with_0_has_succeeded(pods: Pods) -> None:
    pods.create(exit_code="0")
    wait_until(lambda: pods.phase() == "Succeeded")

    assert "Completed" == pods.state()["terminated"]["reason"]


def test_a_pod_ends_for_the_reason_that_a_test_names(pods: Pods) -> None:
    pods.create(exit_code="137", reason="OOMKilled")
    wait_until(lambda: pods.phase() == "Failed")

    assert (137, "OOMKilled") == (pods.state()["terminated"]["exitCode"], pods.state()["terminated"]["reason"])


def test_a_held_pod_waits_with_its_reason_and_runs_when_it_is_let_go(pods: Pods) -> None:
    pods.create(hold="ImagePullBackOff")
    wait_until(lambda: pods.state().get("waiting"))
    waiting, phase = pods.state()["waiting"], pods.phase()
    pods.tell(hold=None)
    wait_until(lambda: pods.phase() == "Running")

    assert ("ImagePullBackOff", "Pending") == (waiting["reason"], phase)


def test_the_job_controller_judges_the_exit_code_of_a_pod(cluster: ControlPlane, namespace: str, pods: Pods) -> None:
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [14]}}
    job = {
        "metadata": {"name": "j"},
        "spec": {
            "completions": 2,
            "parallelism": 2,
            "completionMode": "Indexed",
            "podFailurePolicy": {"rules": [rule]},
            "template": {"spec": template()},
        },
    }
    cluster.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)

    def running() -> list[str]:
        found = kubectl(cluster, "get", "pods", "-n", namespace, "-o", "json")
        return [pod["metadata"]["name"] for pod in json.loads(found)["items"] if pod["status"]["phase"] == "Running"]

    wait_until(lambda: len(running()) == 2)
    pods.tell(running()[0], exit_code="14")
    kubectl(cluster, "wait", "-n", namespace, "job/j", "--for=condition=Failed", "--timeout=30s")

    failed = json.loads(kubectl(cluster, "get", "-n", namespace, "job/j", "-o", "json"))["status"]["conditions"]
    assert "PodFailurePolicy" in {condition["reason"] for condition in failed}


def last_changes(plane: ControlPlane, node: str) -> set[tuple[str, str]]:
    """When each condition of a node has changed last."""
    conditions = json.loads(plane.get(f"/api/v1/nodes/{node}"))["status"]["conditions"]
    return {(it["type"], it["lastTransitionTime"]) for it in conditions}


def test_pods_of_a_silent_node_are_evicted_but_stay_until_it_returns(cluster: ControlPlane, pods: Pods) -> None:
    node = f"silent-{uuid.uuid4().hex[:8]}"
    cluster.add_node(node)
    tolerations = [
        {"key": "kubernetes.io/hostname", "operator": "Exists"},
        {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
    ]
    beat = last_changes(cluster, "node-0")
    try:
        pods.create(spec={"nodeSelector": {"kubernetes.io/hostname": node}, "tolerations": tolerations})
        wait_until(lambda: pods.phase() == "Running")
        cluster.lose_node(node)
        pods.tell(exit_code="0")  # nobody is there to hear it
        wait_until(lambda: not cluster.is_ready(node))
        wait_until(lambda: "deletionTimestamp" in (pods.get() or {})["metadata"])
        lost = pods.get()
        time.sleep(2)
        still_there = pods.get()
        cluster.return_node(node)
        wait_until(lambda: pods.get() is None)
        wait_until(lambda: cluster.is_ready(node))
    finally:
        kubectl(cluster, "delete", "node", node)

    assert lost is not None
    assert still_there is not None
    assert "Running" == still_there["status"]["phase"]
    told = {(it["type"], it.get("reason")) for it in lost["status"]["conditions"]}
    assert ("DisruptionTarget", "DeletionByTaintManager") in told
    assert ("Ready", "False") in {(it["type"], it["status"]) for it in lost["status"]["conditions"]}
    assert beat == last_changes(cluster, "node-0")  # all the while the other nodes were never taken for lost
