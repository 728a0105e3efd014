"""What happens to runs in a cluster, on a real API server with its scheduler, quota and Job controller."""

import json
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from control_plane import kubectl
from operator_site import MANAGER, TWO_NODES, OperatorProcess, Site, conditions
from waiting import wait_for

from sam3ft_api import names
from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.kubernetes.api import ApiProblem

pytestmark = pytest.mark.timeout(300)
SHOWN_WITHIN_S = 60.0


def wait_for_trouble(site: Site, reason: str) -> dict[str, Any]:
    """Return the condition that says what keeps the run from starting, as soon as it is there."""
    return site.wait_for_condition("blood", "Degraded", "True", reason, within_s=SHOWN_WITHIN_S)


def status_of(site: Site) -> dict[str, Any]:
    """Return the status of the run."""
    status: dict[str, Any] = site.resource("blood")["status"]
    return status


def test_without_a_node_that_fits_the_run_says_so_and_starts_when_there_is_one(
    site: Site, operator: OperatorProcess
) -> None:
    elsewhere = TWO_NODES | {"nodeSelector": {"sam3ft.test/pool": site.namespace}}
    uid = site.apply("blood", workers=elsewhere)["metadata"]["uid"]
    site.pass_check(uid)
    said = wait_for_trouble(site, "Unschedulable")
    phase = status_of(site)["phase"]
    kubectl(site.plane, "label", "node", "node-1", f"sam3ft.test/pool={site.namespace}", "--overwrite")
    try:
        site.wait_for_pods(uid, role="worker", count=2)
        after = site.wait_for_condition("blood", "Degraded", "False")
    finally:
        kubectl(site.plane, "label", "node", "node-1", "sam3ft.test/pool-")

    assert "Starting" == phase
    assert "has no node" in said["message"]
    assert "nodeSelector" in said["message"]
    assert after


def test_a_spent_quota_is_told_in_its_own_words_and_the_run_starts_when_there_is_more(
    site: Site, operator: OperatorProcess
) -> None:
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "1"}}}
    path = f"/api/v1/namespaces/{site.namespace}/resourcequotas"
    site.plane.post(path, quota)
    wait_for("the quota counts", lambda: json.loads(site.plane.get(f"{path}/gpus")).get("status", {}).get("hard"))
    uid = site.apply("blood", workers=TWO_NODES)["metadata"]["uid"]
    site.pass_check(uid)
    said = wait_for_trouble(site, "QuotaExceeded")
    kubectl(site.plane, "-n", site.namespace, "delete", "resourcequota", "gpus")
    workers = site.wait_for_workers(uid, 1, count=2)

    assert "exceeded quota: gpus" in said["message"]
    assert "free quota of the namespace" in said["message"]
    assert 2 == len(workers)


def test_an_image_that_cannot_be_pulled_is_told_within_a_minute(site: Site, operator: OperatorProcess) -> None:
    site.apply("blood", workers=TWO_NODES | {"image": "registry.example/missing:1"})
    said = wait_for_trouble(site, "ErrImagePull")
    events = site.wait_for_events("reason=ErrImagePull")

    assert "manifest unknown" in said["message"]
    assert "check workers.image" in said["message"]
    assert ["SAM3FineTune"] == [event["involvedObject"]["kind"] for event in events]


def test_a_finished_run_is_left_without_children_after_its_time_and_stays_itself(
    site: Site, operator: OperatorProcess
) -> None:
    uid, workers = site.begin("blood", ttlSecondsAfterFinished=3)
    site.finish("blood", workers)
    site.wait_until_empty(uid)
    made = len(site.calls())
    time.sleep(3)

    assert "Succeeded" == status_of(site)["phase"]
    assert [] == [
        call for call in site.calls()[made:] if call.verb in ("create", "patch") and call.resource != "leases"
    ]


def test_a_run_ends_at_its_deadline_with_its_workers_paused_first(site: Site, operator: OperatorProcess) -> None:
    uid, _ = site.begin("blood", activeDeadlineSeconds=60)
    earlier = datetime.fromisoformat(status_of(site)["started"]) - timedelta(seconds=52)
    body = {"status": {"started": earlier.strftime("%Y-%m-%dT%H:%M:%SZ")}}  # so that the test need not wait for it
    site.api.patch(kinds.FINETUNE, site.namespace, "blood", body, manager=MANAGER, subresource="status")
    found = site.wait_for_phase("blood", "Failed")

    assert "DeadlineExceeded" == conditions(found)["Failed"]["reason"]
    wait_for("no worker is left", lambda: not site.workers_of(uid, 1))
    assert site.job(uid)["spec"]["suspend"]


def test_what_changes_the_numbers_is_refused_while_it_runs_and_the_run_goes_on(
    site: Site, operator: OperatorProcess
) -> None:
    _, workers = site.begin("blood")
    with pytest.raises(ApiProblem, match="training") as refused:
        site.change("blood", training={"learningRate": 0.001})
    site.change("blood", ttlSecondsAfterFinished=3600)
    found = site.finish("blood", workers)

    assert 422 == refused.value.code
    assert 3600 == found["spec"]["ttlSecondsAfterFinished"]
    assert [1] == [attempt["n"] for attempt in found["status"]["attempts"]]


def follower(site: Site, uid: str, pod: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that takes the place of another one, once it runs; the Job controller waits 10 s, then longer."""
    index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]

    def read() -> dict[str, Any] | None:
        there = [it for it in site.workers_of(uid, 1) if it["metadata"]["uid"] != pod["metadata"]["uid"]]
        found = [
            it for it in there if it["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == index
        ]
        return found[0] if found else None

    return wait_for(f"another worker {index} runs", read, within_s=60)


def test_a_worker_that_somebody_takes_away_is_replaced_and_counts_for_nothing(
    site: Site, operator: OperatorProcess
) -> None:
    uid, workers = site.begin("blood")
    site.tell(workers[0], obeys="20")
    site.api.delete(kinds.POD, site.namespace, workers[0]["metadata"]["name"])
    again = follower(site, uid, workers[0])
    found = site.finish("blood", [again, workers[1]], within_s=60)

    assert 0 == found["status"].get("restarts", 0)
    assert [(1, 0)] == [(attempt["n"], attempt.get("counted", 0)) for attempt in found["status"]["attempts"]]


def test_the_budget_counts_each_time_that_the_hosts_memory_ran_out(site: Site, operator: OperatorProcess) -> None:
    policy = {"maxRestarts": 1, "windowSeconds": 3600, "maxWithoutProgress": 5}
    uid, workers = site.begin("blood", failurePolicy=policy)
    site.tell(workers[0], exit_code="137", reason="OOMKilled")
    counted = wait_for("the end is counted", lambda: status_of(site).get("restarts"))
    site.tell(follower(site, uid, workers[0]), exit_code="137", reason="OOMKilled")
    found = site.wait_for_phase("blood", "Failed", within_s=60)
    warnings = "involvedObject.name=blood,type=Warning"
    told = {"HostOutOfMemory", "BudgetSpent"}
    wait_for(
        "events of both",  # they follow the status
        lambda: told <= {event["reason"] for event in site.events(warnings)},
    )

    [attempt] = found["status"]["attempts"]
    assert 1 == counted
    assert "2 failures within 3600 s; failurePolicy.maxRestarts is 1." in found["status"]["summary"]["message"]
    assert "raise workers.resources.memory" in found["status"]["summary"]["message"]
    assert (2, 2, 137) == (attempt["ends"], attempt["counted"], attempt["exitCode"])


def test_ends_without_a_newer_commit_end_the_run_though_none_of_them_counts(
    site: Site, operator: OperatorProcess
) -> None:
    policy = {"maxRestarts": 10, "windowSeconds": 3600, "maxWithoutProgress": 2}
    uid, workers = site.begin("blood", failurePolicy=policy)
    interrupted = json.dumps({"code": 20, "reason": "Interrupted", "message": "asked to stop"})
    site.end_pod(workers[0], code=20, message=interrupted)
    site.end_pod(follower(site, uid, workers[0]), code=20, message=interrupted)
    found = site.wait_for_phase("blood", "Failed", within_s=60)

    assert "2 ends in a row without a newer commit" in found["status"]["summary"]["message"]
    assert 0 == found["status"].get("restarts", 0)


def test_an_attempt_whose_pods_all_fail_is_left_for_a_fresh_one_and_a_node_that_fails_twice_is_avoided(
    site: Site, operator: OperatorProcess
) -> None:
    pool = f"sam3ft.test/{site.namespace}"
    kubectl(site.plane, "label", "node", "node-2", f"{pool}=yes")
    try:
        four = {"nodes": 4, "maxNodes": 4, "gpusPerNode": 1, "nodeSelector": {pool: "yes"}}
        uid, _ = site.begin("blood", workers=four, training={"maxSteps": 10, "globalBatchSize": 4})
        begun_s = time.monotonic()
        for attempt in (1, 2):
            for pod in site.wait_for_workers(uid, attempt, count=4):
                site.end_pod(pod, code=24)  # without a last word: the launcher's own budget is not known to be spent
        job = names.worker_job_name("blood", 3)
        third = wait_for("a third attempt", lambda: site.get(kinds.JOB, job), within_s=90)
        took_s = time.monotonic() - begun_s
    finally:
        kubectl(site.plane, "label", "node", "node-2", f"{pool}-")
    status = status_of(site)

    affinity = third["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [("NotIn", ["node-2"])] == [
        (it["operator"], it["values"]) for found in term.values() for it in found if "node-2" in it["values"]
    ]
    assert ["Hung", "Hung"] == [attempt["reason"] for attempt in status["attempts"][:2]]
    assert ["node-2"] * 2 == [attempt["firstFailure"]["node"] for attempt in status["attempts"][:2]]
    assert took_s < 120  # the Job controller alone would wait 10, 20, 40 and 80 s for its pods
