"""The operator itself, as it is shipped, on a real API server: whole lives of runs."""

import json
import time
from typing import Any

import pytest
from control_plane import kubectl
from coordinator_site import FakeCoordinator, progress, says
from operator_site import CHECKED, DONE, TWO_NODES, OperatorProcess, Site, conditions
from waiting import wait_for

from sam3ft_api import names
from sam3ft_launch.kubernetes import kinds

pytestmark = pytest.mark.timeout(240)


def test_a_run_lives_from_the_check_to_success(site: Site, operator: OperatorProcess) -> None:
    uid, workers = site.begin("blood")
    [coordinator] = site.wait_for_pods(uid, role="coordinator", count=1)
    with FakeCoordinator(says(progress())) as fake:
        fake.stands_for(site, coordinator)
        running = site.wait_for_phase("blood", "Running")
        columns = kubectl(site.plane, "-n", site.namespace, "get", "sft", "blood").splitlines()[1].split()
        metrics = operator.get("/metrics")[1]
    found = site.finish("blood", workers)

    assert ["blood", "Running", "1200/4000", "1h20m"] == columns[:4]
    assert "2/2" in columns
    assert "True" == conditions(running)["Running"]["status"]
    assert {"Complete": "True", "Failed": "False", "Ready": "True", "Stalled": "False"} == {
        name: conditions(found)[name]["status"] for name in ("Complete", "Failed", "Ready", "Stalled")
    }
    assert "sam3ft_job_info" in metrics
    assert 0 == operator.terminate()


def test_nothing_of_kopf_is_left_and_no_rule_is_missing(site: Site, operator: OperatorProcess) -> None:
    uid, workers = site.begin("blood")
    found = site.finish("blood", workers)
    children = [child for kind in kinds.CHILDREN.values() for child in site.children(kind, uid)]
    refused = [call for call in site.calls() if call.code in (401, 403)]

    assert site.created("jobs")
    assert [] == refused
    assert len(children) >= 8
    for thing in (found, *children):
        metadata = thing["metadata"]
        assert not [name for name in metadata.get("annotations") or {} if "kopf" in name], metadata
        assert not [name for name in metadata.get("finalizers") or [] if "sam3ft" in name or "kopf" in name], metadata
    assert {"sam3ft-status"} == {
        entry["manager"] for entry in found["metadata"]["managedFields"] if entry.get("subresource") == "status"
    }


def test_a_verdict_ends_the_run_with_its_words(site: Site, operator: OperatorProcess) -> None:
    uid, workers = site.begin("blood")
    words = "s3://runs/blood belongs to run other of namespace lab"
    word = {"code": 14, "reason": "CheckpointIncompatible", "message": words, "rank": 1, "node": "node-0"}
    site.end_pod(workers[0], code=14, message=json.dumps(word))
    found = site.wait_for_phase("blood", "Failed")

    assert words in found["status"]["summary"]["message"]
    assert "True" == conditions(found)["Failed"]["status"]
    [attempt] = found["status"]["attempts"]
    assert ("CheckpointIncompatible", 14) == (attempt["reason"], attempt["exitCode"])
    assert 1 == len([name for name in site.created("jobs") if name == names.worker_job_name("blood", 1)])
    wait_for(
        "no worker runs",
        lambda: not [it for it in site.children(kinds.POD, uid, role="worker") if it["status"]["phase"] == "Running"],
    )


def test_a_failed_check_takes_no_worker(site: Site, operator: OperatorProcess) -> None:
    uid = site.apply("blood")["metadata"]["uid"]
    [check] = site.wait_for_pods(uid, role="preflight", count=1)
    word = {"code": 11, "reason": "InvalidDataset", "message": "train has no images"}
    site.end_pod(check, code=11, message=json.dumps(word))
    found = site.wait_for_phase("blood", "Failed")

    assert "train has no images" in found["status"]["summary"]["message"]
    assert "False" == conditions(found)["DatasetReady"]["status"]
    assert [] == site.children(kinds.JOB, uid, role="worker")


def test_operators_that_are_killed_leave_a_run_that_ends_alike_with_no_child_twice(
    site: Site, operator: OperatorProcess
) -> None:
    uid = site.apply("blood", workers=TWO_NODES)["metadata"]["uid"]
    [check] = site.wait_for_pods(uid, role="preflight", count=1)
    operator.kill()
    site.end_pod(check, message=CHECKED)
    second = site.operator()
    workers = site.wait_for_pods(uid, role="worker", count=2)
    second.kill()
    for worker in workers:
        site.end_pod(worker, message=DONE)
    site.operator()
    found = site.wait_for_phase("blood", "Succeeded")

    assert [1] == [attempt["n"] for attempt in found["status"]["attempts"]]
    for resource in ("jobs", "pods", "services", "configmaps", "networkpolicies", "secrets"):
        assert sorted(set(site.created(resource))) == sorted(site.created(resource))
    assert sorted([names.preflight_name("blood"), names.worker_job_name("blood", 1)]) == sorted(site.created("jobs"))


def test_deletion_in_the_middle_takes_everything(site: Site, operator: OperatorProcess) -> None:
    uid, _ = site.begin("blood")
    site.api.delete(kinds.FINETUNE, site.namespace, "blood")
    site.wait_until_empty(uid)
    made = len(site.created("jobs"))
    time.sleep(1.0)

    assert made == len(site.created("jobs"))
    assert 200 == operator.get("/healthz")[0]


def test_what_somebody_deletes_by_hand_is_made_again(site: Site, operator: OperatorProcess) -> None:
    uid, workers = site.begin("blood")
    kept = (kinds.CONFIG_MAP, kinds.SERVICE, kinds.NETWORK_POLICY)
    before = {kind.name: sorted(it["metadata"]["name"] for it in site.children(kind, uid)) for kind in kept}
    for kind in kept:
        for name in before[kind.name]:
            if name != names.policy_name("blood", names.ROLE_PREFLIGHT):
                site.api.delete(kind, site.namespace, name)
    site.api.delete(kinds.JOB, site.namespace, names.worker_job_name("blood", 1))

    def made_again() -> bool:
        now = {kind.name: sorted(it["metadata"]["name"] for it in site.children(kind, uid)) for kind in kept}
        pods = site.children(kinds.POD, uid, role="worker")
        fresh = [it for it in pods if it["status"].get("phase") == "Running" and it["metadata"]["name"] not in gone]
        return now == before and len(fresh) == len(workers)

    gone = {it["metadata"]["name"] for it in workers}
    wait_for("everything is there again", made_again)
    assert [1] == [attempt["n"] for attempt in site.resource("blood")["status"]["attempts"]]


def test_a_coordinator_on_a_node_that_is_gone_is_replaced(site: Site, operator: OperatorProcess) -> None:
    uid, _ = site.begin("blood")
    [lead] = site.wait_for_pods(uid, role="coordinator", count=1)
    node = lead["spec"]["nodeName"]

    def another() -> bool:
        found = site.children(kinds.POD, uid, role="coordinator")
        return any(
            it["metadata"]["uid"] != lead["metadata"]["uid"] and it["status"].get("phase") == "Running" for it in found
        )

    site.plane.lose_node(node)
    try:
        wait_for("another coordinator runs", another, within_s=120)
    finally:
        site.plane.return_node(node)
    assert [1] == [attempt["n"] for attempt in site.resource("blood")["status"]["attempts"]]


def test_a_hostile_coordinator_harms_neither_its_run_nor_another(site: Site, operator: OperatorProcess) -> None:
    uid, workers = site.begin("blood")
    [coordinator] = site.wait_for_pods(uid, role="coordinator", count=1)

    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"[" * 65536)

    with FakeCoordinator(endless) as fake:
        fake.stands_for(site, coordinator)
        wait_for("it is asked", lambda: fake.asked)
        begun_s = time.monotonic()
        other = site.apply("other")["metadata"]["uid"]
        site.wait_for_pods(other, role="preflight", count=1)
        took_s = time.monotonic() - begun_s
    site.finish("blood", workers)

    assert took_s < 5
    assert [] == [line["error"] for line in operator.lines() if "error" in line]


def test_an_api_server_that_stands_still_for_a_while_is_waited_for(site: Site, operator: OperatorProcess) -> None:
    uid = site.apply("blood", workers=TWO_NODES)["metadata"]["uid"]
    [check] = site.wait_for_pods(uid, role="preflight", count=1)
    server = site.plane.program("kube-apiserver")
    server.pause()
    time.sleep(4.0)
    server.go_on()
    site.end_pod(check, message=CHECKED)
    site.wait_for_pods(uid, role="worker", count=2)

    assert 200 == operator.get("/healthz")[0]


def test_a_spec_that_this_cluster_cannot_run_is_refused_with_the_reason_until_it_is_mended(
    site: Site, operator: OperatorProcess
) -> None:
    uid = site.apply("blood", training={"maxSteps": 10, "config": {"optim": {"no_such_setting": 1}}})["metadata"]["uid"]
    found = site.wait_for_phase("blood", "Failed")
    [event] = site.wait_for_events("involvedObject.name=blood,type=Warning")
    made = [child for kind in kinds.CHILDREN.values() for child in site.children(kind, uid)]
    site.change("blood", training={"config": None})
    site.wait_for_pods(uid, role="preflight", count=1)

    assert "no_such_setting" in found["status"]["summary"]["message"]
    assert {"Accepted": "False", "Failed": "True", "Stalled": "True"} == {
        name: conditions(found)[name]["status"] for name in ("Accepted", "Failed", "Stalled")
    }
    assert "no_such_setting" in event["message"]
    assert [] == made
    assert "Checking" == site.resource("blood")["status"]["phase"]
