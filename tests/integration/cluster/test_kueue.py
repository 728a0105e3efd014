"""The Jobs of runs under a real Kueue: they wait for quota, grow within it, and pods without a queue are left alone."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from control_plane import ControlPlane, kubectl
from kueue import ACCOUNT, NAMESPACE, make_queue
from objects_bench import finetune, of_kind, rendered, spec_with
from rights import refused
from waiting import wait_until

from sam3ft_launch.kubernetes.api import Api, ApiSettings
from sam3ft_operator.decision import Admit
from sam3ft_operator.effects import Effects
from sam3ft_operator.observed import Resource

pytestmark = pytest.mark.timeout(300)
QUEUE = "gpu"


class Lab:
    """A namespace of a Kueue cluster with a queue of two accelerators."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """Make the queue."""
        self.plane, self.namespace = plane, namespace
        self.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        make_queue(plane, namespace, accelerators=2, name=QUEUE)

    def make(self, document: dict[str, Any]) -> None:
        """Apply an object."""
        kubectl(self.plane, "apply", "--server-side", "-f", "-", stdin=json.dumps(document))

    def run(self, name: str, *, nodes: int, queue: bool = True) -> str:
        """Make the Job of a run's workers, each with one accelerator, as the operator does; returns its name."""
        spec = spec_with(workers={"nodes": nodes, "maxNodes": 4, "gpusPerNode": 1, "resources": {"cpu": 1}})
        if queue:
            spec["queue"] = {"localQueue": QUEUE}
        submission = rendered(finetune(spec, name=name, namespace=self.namespace), uid=str(uuid.uuid4()))
        job = of_kind(submission, "Job", "worker")
        job["metadata"].pop("ownerReferences", None)  # the resource itself is not there
        self.make(job)
        return str(job["metadata"]["name"])

    def scale(self, job: str, nodes: int) -> None:
        """Give a Job another number of pods, as the operator does."""
        patch = json.dumps({"spec": {"parallelism": nodes, "completions": nodes}})
        kubectl(self.plane, "patch", "-n", self.namespace, "job", job, "--type=merge", "-p", patch)

    def delete(self, job: str) -> None:
        """Delete a Job with its pods."""
        kubectl(self.plane, "delete", "-n", self.namespace, "job", job)

    def running(self, job: str) -> int:
        """Count the running pods of a Job."""
        selector = f"--selector=batch.kubernetes.io/job-name={job}"
        found = kubectl(self.plane, "get", "pods", "-n", self.namespace, selector, "-o", "json")
        return sum(pod["status"].get("phase") == "Running" for pod in json.loads(found)["items"])

    def workloads(self) -> dict[str, dict[str, str]]:
        """Return the conditions of every Workload by its name."""
        found = json.loads(kubectl(self.plane, "get", "workloads", "-n", self.namespace, "-o", "json"))["items"]
        return {
            it["metadata"]["name"]: {c["type"]: c["status"] for c in it.get("status", {}).get("conditions", [])}
            for it in found
        }


@pytest.fixture
def lab(kueue_cluster: ControlPlane) -> Iterator[Lab]:
    """A fresh queue in a fresh namespace."""
    found = Lab(kueue_cluster, f"lab-{uuid.uuid4().hex[:8]}")
    yield found
    kubectl(kueue_cluster, "delete", "namespace", found.namespace, "--wait=false")


def test_a_run_starts_when_there_is_quota_and_the_next_one_waits_for_its_end(lab: Lab) -> None:
    first = lab.run("first", nodes=2)
    wait_until(lambda: lab.running(first) == 2)
    second = lab.run("second", nodes=1)
    wait_until(lambda: any(it.get("QuotaReserved") == "False" for it in lab.workloads().values()))
    waiting = lab.running(second)
    lab.delete(first)
    wait_until(lambda: lab.running(second) == 1)

    assert 0 == waiting


def test_a_run_grows_within_its_quota_and_its_pods_go_on(lab: Lab) -> None:
    job = lab.run("growing", nodes=1)
    wait_until(lambda: lab.running(job) == 1)
    lab.scale(job, 2)
    wait_until(lambda: lab.running(job) == 2)
    lab.scale(job, 3)  # more than there is
    time.sleep(3)
    crowded = lab.running(job)
    lab.scale(job, 1)
    wait_until(lambda: lab.running(job) == 1)

    assert 2 == crowded


def test_a_run_is_paused_by_its_workload_and_its_quota_is_free(lab: Lab) -> None:
    first = lab.run("first", nodes=2)
    wait_until(lambda: lab.running(first) == 2)
    second = lab.run("second", nodes=2)
    job = json.loads(kubectl(lab.plane, "get", "job", first, "-n", lab.namespace, "-o", "json"))
    unused: Any = None
    effects = Effects(Api(ApiSettings(kubeconfig=str(lab.plane.admin_kubeconfig))), unused, unused)
    resource = Resource(lab.namespace, "first", "uid", 1, 0.0, None)
    effects.apply(resource, Admit(first, job["metadata"]["uid"], is_active=False))

    wait_until(lambda: lab.running(first) == 0 and lab.running(second) == 2)
    paused = json.loads(kubectl(lab.plane, "get", "job", first, "-n", lab.namespace, "-o", "json"))
    assert paused["spec"]["suspend"]


def test_what_names_no_queue_is_left_alone(lab: Lab) -> None:
    job = lab.run("free", nodes=4, queue=False)
    wait_until(lambda: lab.running(job) == 4)

    assert {} == lab.workloads()


def test_its_controller_lives_by_its_own_rules(kueue_cluster: ControlPlane, lab: Lab) -> None:
    job = lab.run("any", nodes=1)
    wait_until(lambda: lab.running(job) == 1)

    user = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    assert len(list(kueue_cluster.calls(user=user))) > 10
    assert set() == refused(kueue_cluster, user=user)
