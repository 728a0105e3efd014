"""What happens to runs in a cluster, on a real API server with its scheduler, quota and Job controller."""

import json
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from control_plane import kubectl
from operator_site import OperatorProcess, Site
from waiting import wait_for

from sam3ft_api import names
from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.kubernetes.api import ApiProblem

pytestmark = pytest.mark.timeout(300)
CHECKED = json.dumps({"code": 0, "reason": "Succeeded"})
DONE = json.dumps({"code": 0, "reason": "Succeeded", "step": 10, "checkpoint_step": 10})
SHOWN_WITHIN_S = 60.0
TWO_NODES = {"nodes": 2, "maxNodes": 2, "gpusPerNode": 1}


@pytest.fixture
def operator(site: Site) -> OperatorProcess:
    """A running operator."""
    process = site.operator()
    process.wait_until_ready()
    return process


def check(site: Site, uid: str) -> None:
    """Let the check of a run pass."""
    [pod] = site.wait_for_pods(uid, role="preflight", count=1)
    site.end_pod(pod, message=CHECKED)


def begin(site: Site, *, count: int = 2, **spec: Any) -> tuple[str, list[dict[str, Any]]]:
    """Apply a run, let its check pass, and return its uid and the workers that run."""
    uid = site.apply("blood", **({"workers": TWO_NODES} | spec))["metadata"]["uid"]
    check(site, uid)
    return uid, site.wait_for_pods(uid, role="worker", count=count)


def trouble(site: Site, reason: str) -> dict[str, Any]:
    """Return the condition that says what keeps the run from starting, as soon as it is there."""

    def read() -> dict[str, Any] | None:
        found = site.resource("blood").get("status", {}).get("conditions", [])
        return next(
            (it for it in found if (it["type"], it["status"], it["reason"]) == ("Degraded", "True", reason)), None
        )

    return wait_for(f"blood says {reason}", read, within_s=SHOWN_WITHIN_S)


def status_of(site: Site) -> dict[str, Any]:
    """Return the status."""
    status: dict[str, Any] = site.resource("blood")["status"]
    return status


def alive(site: Site, uid: str, attempt: int) -> list[dict[str, Any]]:
    """Return the workers of an attempt that run."""
    return [
        pod
        for pod in site.children(kinds.POD, uid, role="worker")
        if pod["metadata"]["labels"][names.LABEL_ATTEMPT] == str(attempt)
        and pod["status"].get("phase") == "Running"
        and "deletionTimestamp" not in pod["metadata"]
    ]


def wait_for_attempt(site: Site, uid: str, attempt: int, *, count: int) -> list[dict[str, Any]]:
    """Return the workers of an attempt once as many run."""

    def read() -> list[dict[str, Any]] | None:
        found = alive(site, uid, attempt)
        return found if len(found) == count else None

    return wait_for(f"{count} workers of attempt {attempt}", read, within_s=90)


def test_without_a_node_that_fits_the_run_says_so_and_starts_when_there_is_one(
    site: Site, operator: OperatorProcess
) -> None:
    uid = site.apply("blood", workers=TWO_NODES | {"nodeSelector": {"sam3ft.test/pool": site.namespace}})
    check(site, uid["metadata"]["uid"])
    said = trouble(site, "Unschedulable")
    phase = status_of(site)["phase"]
    kubectl(site.plane, "label", "node", "node-1", f"sam3ft.test/pool={site.namespace}", "--overwrite")
    try:
        site.wait_for_pods(uid["metadata"]["uid"], role="worker", count=2)
        after = wait_for(
            "it is mended",
            lambda: [it for it in status_of(site)["conditions"] if (it["type"], it["status"]) == ("Degraded", "False")],
        )
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
    check(site, uid)
    said = trouble(site, "QuotaExceeded")
    kubectl(site.plane, "-n", site.namespace, "delete", "resourcequota", "gpus")
    workers = wait_for_attempt(site, uid, 1, count=2)

    assert "exceeded quota: gpus" in said["message"]
    assert "free quota of the namespace" in said["message"]
    assert 2 == len(workers)


def test_an_image_that_cannot_be_pulled_is_told_within_a_minute(site: Site, operator: OperatorProcess) -> None:
    site.apply("blood", workers=TWO_NODES | {"image": "registry.example/missing:1"})
    said = trouble(site, "ErrImagePull")
    query = {"fieldSelector": "reason=ErrImagePull"}
    events = wait_for("an event", lambda: site.api.list(kinds.EVENT, site.namespace, query)["items"])

    assert "manifest unknown" in said["message"]
    assert "check workers.image" in said["message"]
    assert ["SAM3FineTune"] == [event["involvedObject"]["kind"] for event in events]


def test_a_finished_run_is_left_without_children_after_its_time_and_stays_itself(
    site: Site, operator: OperatorProcess
) -> None:
    uid, workers = begin(site, ttlSecondsAfterFinished=3)
    for worker in workers:
        site.end_pod(worker, message=DONE)
    site.wait_for_phase("blood", "Succeeded")
    wait_for("no child is left", lambda: not any(site.children(kind, uid) for kind in kinds.CHILDREN.values()))
    made = len(site.calls())
    time.sleep(3)

    assert "Succeeded" == status_of(site)["phase"]
    assert [] == [
        call for call in site.calls()[made:] if call.verb in ("create", "patch") and call.resource != "leases"
    ]


def test_a_run_ends_at_its_deadline_with_its_workers_paused_first(site: Site, operator: OperatorProcess) -> None:
    uid, _ = begin(site, activeDeadlineSeconds=60)
    earlier = datetime.fromisoformat(status_of(site)["started"]) - timedelta(seconds=52)
    body = {"status": {"started": earlier.strftime("%Y-%m-%dT%H:%M:%SZ")}}  # so that the test need not wait for it
    site.api.patch(kinds.FINETUNE, site.namespace, "blood", body, manager="test", subresource="status")
    found = site.wait_for_phase("blood", "Failed")

    [failed] = [it for it in found["status"]["conditions"] if it["type"] == "Failed"]
    assert "DeadlineExceeded" == failed["reason"]
    wait_for("no worker is left", lambda: not alive(site, uid, 1))
    [job] = site.children(kinds.JOB, uid, role="worker")
    assert job["spec"]["suspend"]


def test_what_changes_the_numbers_is_refused_while_it_runs_and_the_run_goes_on(
    site: Site, operator: OperatorProcess
) -> None:
    _, workers = begin(site)
    with pytest.raises(ApiProblem, match="training") as refused:
        site.change("blood", training={"learningRate": 0.001})
    site.change("blood", ttlSecondsAfterFinished=3600)
    for worker in workers:
        site.end_pod(worker, message=DONE)
    found = site.wait_for_phase("blood", "Succeeded")

    assert 422 == refused.value.code
    assert 3600 == found["spec"]["ttlSecondsAfterFinished"]
    assert [1] == [attempt["n"] for attempt in found["status"]["attempts"]]


def tell(site: Site, pod: dict[str, Any], **annotations: str) -> None:
    """Tell kwok what happens to a pod."""
    told = {f"play.sam3ft.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    body = {"metadata": {"annotations": told}}
    site.api.patch(kinds.POD, site.namespace, pod["metadata"]["name"], body, manager="test")


def follower(site: Site, uid: str, pod: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that takes the place of another one, once it runs; the Job controller waits 10 s, then longer."""
    index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]

    def read() -> dict[str, Any] | None:
        there = [it for it in alive(site, uid, 1) if it["metadata"]["uid"] != pod["metadata"]["uid"]]
        found = [
            it for it in there if it["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == index
        ]
        return found[0] if found else None

    return wait_for(f"another worker {index} runs", read, within_s=60)


def test_a_worker_that_somebody_takes_away_is_replaced_and_counts_for_nothing(
    site: Site, operator: OperatorProcess
) -> None:
    uid, workers = begin(site)
    tell(site, workers[0], obeys="20")
    site.api.delete(kinds.POD, site.namespace, workers[0]["metadata"]["name"])
    again = follower(site, uid, workers[0])
    for worker in (again, workers[1]):
        site.end_pod(worker, message=DONE)
    found = site.wait_for_phase("blood", "Succeeded", within_s=60)

    assert 0 == found["status"].get("restarts", 0)
    assert [(1, 0)] == [(attempt["n"], attempt.get("counted", 0)) for attempt in found["status"]["attempts"]]


def test_the_budget_counts_each_time_that_the_hosts_memory_ran_out(site: Site, operator: OperatorProcess) -> None:
    policy = {"maxRestarts": 1, "windowSeconds": 3600, "maxWithoutProgress": 5}
    uid, workers = begin(site, failurePolicy=policy)
    tell(site, workers[0], exit_code="137", reason="OOMKilled")
    counted = wait_for("the end is counted", lambda: status_of(site).get("restarts"))
    tell(site, follower(site, uid, workers[0]), exit_code="137", reason="OOMKilled")
    found = site.wait_for_phase("blood", "Failed", within_s=60)
    query = {"fieldSelector": "involvedObject.name=blood,type=Warning"}
    told = {"HostOutOfMemory", "BudgetSpent"}
    wait_for(
        "events of both",  # they follow the status
        lambda: told <= {event["reason"] for event in site.api.list(kinds.EVENT, site.namespace, query)["items"]},
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
    uid, workers = begin(site, failurePolicy=policy)
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
        workers = {"nodes": 4, "maxNodes": 4, "gpusPerNode": 1, "nodeSelector": {pool: "yes"}}
        uid, _ = begin(site, count=4, workers=workers, training={"maxSteps": 10, "globalBatchSize": 4})
        begun_s = time.monotonic()
        for attempt in (1, 2):
            for pod in wait_for_attempt(site, uid, attempt, count=4):
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
