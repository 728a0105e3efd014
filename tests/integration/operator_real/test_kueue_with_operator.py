"""Runs in a queue of the real Kueue, with the operator as it is shipped: waiting, preempted, scaled, suspended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, kubectl
from coordinator_site import FakeCoordinator, progress, says
from kueue import make_queue
from queue_site import QUEUE, URGENT, QueueSite
from waiting import wait_for

from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.kubernetes.objects.job import QUEUE_LABEL

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("operator")]


@pytest.fixture
def site(kueue_cluster: ControlPlane, tmp_path: Path) -> Iterator[QueueSite]:
    """A namespace with a queue."""
    with QueueSite.fresh(kueue_cluster, tmp_path) as found:
        yield found


@pytest.fixture
def coordinator() -> Iterator[FakeCoordinator]:
    """Stands for the coordinator of one run."""
    with FakeCoordinator(says({})) as found:
        yield found


@pytest.fixture
def small_pods_pass(kueue_cluster: ControlPlane) -> Iterator[None]:
    """Kueue's webhooks pass over preflights and coordinators, as docs/kubernetes-objects.md says, until the end."""
    kinds_of = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
    roles = {"key": "sam3ft.dev/role", "operator": "NotIn", "values": ["preflight", "coordinator"]}
    for kind in kinds_of:
        _select(kueue_cluster, kind, {"matchExpressions": [roles]})
    yield
    for kind in kinds_of:
        _select(kueue_cluster, kind, {})


def _select(plane: ControlPlane, kind: str, selector: dict[str, Any]) -> None:
    """Give every webhook for Jobs and pods this selector of objects."""
    for found in json.loads(kubectl(plane, "get", kind, "-o", "json"))["items"]:
        for number, hook in enumerate(found["webhooks"]):
            if {"jobs", "pods"} & {resource for rule in hook["rules"] for resource in rule["resources"]}:
                assert hook.get("objectSelector", {}) == {} or "sam3ft" in str(hook["objectSelector"])
                change = [{"op": "add", "path": f"/webhooks/{number}/objectSelector", "value": selector}]
                kubectl(plane, "patch", kind, found["metadata"]["name"], "--type=json", "-p", json.dumps(change))


def attempts(found: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Return number, ends and counted ends of every attempt."""
    return [(it["n"], it.get("ends", 0), it.get("counted", 0)) for it in found["status"]["attempts"]]


def test_a_run_waits_for_quota_says_so_and_runs_once_there_is_some(
    site: QueueSite, coordinator: FakeCoordinator
) -> None:
    first = site.wait_for_pods(site.queue("first", nodes=2), role="worker", count=2)
    second = site.queue("second", nodes=1)
    site.wait_for_phase("second", "Queued")
    waiting = site.wait_for_condition("second", "Scheduled", "False", "Queued")
    pods = site.children(kinds.POD, second, role="worker")
    why = wait_for("Kueue's own words", lambda: _words_of_quota(site, "second"), within_s=60)
    row = kubectl(site.plane, "-n", site.namespace, "get", "sft", "second").splitlines()[1]
    site.finish("first", first)
    workers = site.train(second, coordinator, nodes=1)
    site.wait_for_phase("second", "Running")
    found = site.finish("second", workers)

    assert f"LocalQueue {QUEUE}" in waiting["message"]
    assert [] == pods
    assert "insufficient unused quota for nvidia.com/gpu" in why
    assert "Queued" in row
    assert [(1, 0, 0)] == attempts(found)


def test_a_run_that_is_preempted_goes_back_to_the_queue_and_loses_none_of_its_budget(
    site: QueueSite, coordinator: FakeCoordinator
) -> None:
    low = site.queue("low", nodes=2)
    site.train(low, coordinator, nodes=2)
    site.wait_for_phase("low", "Running")
    urgent = site.queue("urgent", nodes=2, workers={"priorityClassName": URGENT})
    coordinator.answer = says(progress(nodes=0, state="waiting"))
    site.wait_for_phase("low", "Queued")
    urgent_workers = site.wait_for_pods(urgent, role="worker", count=2)
    left = site.children(kinds.POD, low, role="worker")
    queued = site.resource("low")
    site.finish("urgent", urgent_workers)
    workers = site.train(low, coordinator, nodes=2)
    site.wait_for_phase("low", "Running")
    found = site.finish("low", workers)

    assert [] == left
    for one in (queued, found):
        assert [(1, 0, 0)] == attempts(one)
        assert 0 == one["status"].get("restarts", 0)
        assert {} == {key: it for key, it in one["status"].get("budget", {}).items() if key != "commitStep" and it}


def test_a_run_that_is_admitted_grows_and_shrinks_without_a_new_attempt(
    site: QueueSite, coordinator: FakeCoordinator
) -> None:
    uid = site.queue("elastic", nodes=1)
    before = site.train(uid, coordinator, nodes=1)
    site.wait_for_phase("elastic", "Running")
    kubectl(site.plane, "-n", site.namespace, "scale", "sft/elastic", "--replicas=2")
    grown = site.train(uid, coordinator, nodes=2)
    kubectl(site.plane, "-n", site.namespace, "scale", "sft/elastic", "--replicas=1")
    shrunk = site.train(uid, coordinator, nodes=1)
    found = site.finish("elastic", shrunk)

    names = [{it["metadata"]["name"] for it in pods} for pods in (before, grown, shrunk)]
    assert names[0] == names[2]
    assert names[0] < names[1]
    assert [(1, 0, 0)] == attempts(found)


def test_a_run_is_suspended_by_its_workload_and_goes_on_in_a_new_attempt(
    site: QueueSite, coordinator: FakeCoordinator
) -> None:
    uid = site.queue("low", nodes=2)
    site.train(uid, coordinator, nodes=2)
    site.wait_for_phase("low", "Running")
    workload = site.workloads(uid)[0]["metadata"]["name"]
    other = site.queue("other", nodes=2)
    site.change("low", suspend=True)
    site.wait_for_phase("low", "Suspended")
    others = site.wait_for_pods(other, role="worker", count=2)
    suspended = site.resource("low")
    patched = [call.name for call in site.calls() if (call.resource, call.verb) == ("workloads", "patch")]
    site.change("low", suspend=False)
    site.wait_for_phase("low", "Queued")
    site.finish("other", others)
    found = site.finish("low", site.train(uid, coordinator, nodes=2))

    assert [workload] == sorted(set(patched))
    assert ["Suspended"] == [it["reason"] for it in suspended["status"]["attempts"]]
    assert [(1, 0, 0), (2, 0, 0)] == attempts(found)


def test_a_queue_called_default_takes_the_workers_of_every_run_and_nothing_else(
    site: QueueSite, coordinator: FakeCoordinator, small_pods_pass: None
) -> None:
    make_queue(site.plane, site.namespace, accelerators=2, name="default")
    first = site.queue("first", nodes=2, queued=False)
    workers = site.wait_for_pods(first, role="worker", count=2)
    second = site.queue("second", nodes=2, queued=False)
    site.wait_for_phase("second", "Queued")
    waiting = site.wait_for_condition("second", "Scheduled", "False", "Queued")
    small = [child for uid in (first, second) for child in _preflights_and_coordinators(site, uid)]
    taken = [site.job(uid)["metadata"]["labels"].get(QUEUE_LABEL) for uid in (first, second)]
    site.finish("first", workers)
    found = site.finish("second", site.train(second, coordinator, nodes=2))

    assert "LocalQueue default" in waiting["message"]
    assert 6 == len(small)
    assert [] == [it["metadata"]["name"] for it in small if QUEUE_LABEL in it["metadata"]["labels"]]
    assert [] == [it["metadata"]["name"] for it in small if "kueue" in str(it["metadata"].get("finalizers"))]
    assert ["default", "default"] == taken
    assert [(1, 0, 0)] == attempts(found)


def test_where_no_queue_is_called_default_a_run_without_one_does_not_wait(site: QueueSite) -> None:
    uid = site.queue("free", nodes=4, queued=False)
    found = site.finish("free", site.wait_for_pods(uid, role="worker", count=4))

    assert [(1, 0, 0)] == attempts(found)
    assert [] == site.api.list(kinds.WORKLOAD, site.namespace, {})["items"]


def _words_of_quota(site: QueueSite, name: str) -> str:
    message = str(site.resource(name)["status"]["summary"]["message"])
    return message if "quota for" in message else ""


def _preflights_and_coordinators(site: QueueSite, uid: str) -> list[dict[str, Any]]:
    kept = ((kinds.JOB, "preflight"), (kinds.POD, "preflight"), (kinds.POD, "coordinator"))
    return [child for kind, role in kept for child in site.children(kind, uid, role=role)]
