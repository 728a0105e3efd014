"""The engine on a real API server, with a core of a few lines."""

import json
import time
from pathlib import Path

import pytest
from operator_site import ONE_NODE, TWO_NODES, OperatorProcess, Site
from waiting import wait_for

from sam3ft_launch.kubernetes import kinds
from sam3ft_operator.rbac import LEASE_NAME

pytestmark = pytest.mark.timeout(180)
SMALL = (str(Path(__file__).with_name("small_operator.py")),)


@pytest.fixture
def operator(site: Site) -> OperatorProcess:
    """A running operator whose core is that of small_operator.py."""
    process = site.operator(program=SMALL)
    process.wait_until_ready()
    return process


def test_a_resource_is_checked_and_trained_and_succeeds(site: Site, operator: OperatorProcess) -> None:
    _, workers = site.begin("blood")
    site.wait_for_phase("blood", "Running")
    found = site.finish("blood", workers)

    assert 0 == operator.terminate()
    assert not found["metadata"].get("finalizers")
    assert [] == [name for name in found["metadata"].get("annotations", {}) if "kopf" in name]
    assert [] == [call for call in site.calls() if call.code in (401, 403)]


def test_what_a_failed_check_says_is_in_the_status_without_control_characters(
    site: Site, operator: OperatorProcess
) -> None:
    uid = site.apply("blood")["metadata"]["uid"]
    [check] = site.wait_for_pods(uid, role="preflight", count=1)
    word = {"code": 11, "reason": "InvalidDataset", "message": "no images\x1b[2J in train"}
    site.end_pod(check, code=11, message=json.dumps(word))
    found = site.wait_for_phase("blood", "Failed")

    assert "no images [2J in train" == found["status"]["summary"]["message"]


def test_events_tell_each_sentence_once(site: Site, operator: OperatorProcess) -> None:
    uid = site.apply("blood")["metadata"]["uid"]
    site.wait_for_events(f"involvedObject.uid={uid}")
    site.change("blood", activeDeadlineSeconds=600)
    wait_for("a look at the change", lambda: site.resource("blood")["status"]["observedGeneration"] == 2)
    events = site.events(f"involvedObject.uid={uid}")

    assert [("Phase", "now Checking", 1)] == [(it["reason"], it["message"], it["count"]) for it in events]


def test_nodes_are_scaled_and_a_job_is_paused(site: Site, operator: OperatorProcess) -> None:
    training = {"globalBatchSize": 8, "maxSteps": 9}
    uid, _ = site.begin("blood", workers={"nodes": 1, "maxNodes": 4}, training=training)
    site.change("blood", workers={"nodes": 3})
    site.wait_for_pods(uid, role="worker", count=3)
    site.change("blood", suspend=True)
    wait_for("no worker is left", lambda: not site.children(kinds.POD, uid, role="worker"))

    assert (3, 3, True) == tuple(site.job(uid)["spec"][name] for name in ("parallelism", "completions", "suspend"))


def test_deletion_takes_all_children(site: Site, operator: OperatorProcess) -> None:
    uid, _ = site.begin("blood", workers=ONE_NODE)
    site.api.delete(kinds.FINETUNE, site.namespace, "blood")

    site.wait_until_empty(uid)
    wait_for("its metrics are gone", lambda: 'job_name="blood"' not in operator.get("/metrics")[1])


def test_a_killed_operator_is_followed_by_another_that_makes_nothing_twice(
    site: Site, operator: OperatorProcess
) -> None:
    uid = site.apply("blood", workers=TWO_NODES)["metadata"]["uid"]
    [check] = site.wait_for_pods(uid, role="preflight", count=1)
    operator.kill()
    site.end_pod(check)
    second = site.operator(program=SMALL)
    workers = site.wait_for_pods(uid, role="worker", count=2)
    second.kill()
    for worker in workers:
        site.end_pod(worker)
    site.operator(program=SMALL)
    site.wait_for_phase("blood", "Succeeded")

    assert 2 == len(site.created("jobs"))


def test_a_second_replica_waits_and_takes_over_within_twenty_seconds(site: Site, operator: OperatorProcess) -> None:
    wait_for("the first leads", operator.is_leading)
    second = site.operator(program=SMALL)
    second.wait_until_ready()
    assert not second.is_leading()
    operator.kill()
    begun_s = time.monotonic()
    uid = site.apply("blood")["metadata"]["uid"]
    site.wait_for_pods(uid, role="preflight", count=1)

    assert time.monotonic() - begun_s < 20


def test_a_replica_that_ends_gives_the_lease_back(site: Site, operator: OperatorProcess) -> None:
    second = site.operator(program=SMALL)
    second.wait_until_ready()
    assert 0 == operator.terminate()
    begun_s = time.monotonic()
    uid = site.apply("blood")["metadata"]["uid"]
    site.wait_for_pods(uid, role="preflight", count=1)

    assert time.monotonic() - begun_s < 8


def test_a_replica_whose_lease_is_taken_ends(site: Site, operator: OperatorProcess) -> None:
    wait_for("it leads", operator.is_leading)
    body = {"spec": {"holderIdentity": "somebody else"}}
    site.api.patch(kinds.LEASE, site.namespace, LEASE_NAME, body, manager="test")

    assert 1 == operator.wait(within_s=15)


def test_a_name_that_is_taken_is_told_and_tried_again(site: Site, operator: OperatorProcess) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "blood-config"}}
    site.api.create(kinds.CONFIG_MAP, site.namespace, config, manager="test")
    uid = site.apply("blood")["metadata"]["uid"]
    [event] = site.wait_for_events(f"involvedObject.uid={uid},reason=NameTaken")
    site.api.delete(kinds.CONFIG_MAP, site.namespace, "blood-config")
    site.wait_for_pods(uid, role="preflight", count=1)

    assert "Warning" == event["type"]
    assert "blood-config exists" in event["message"]
