"""Objects of the API as values."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ft_api import names
from sam3ft_api.status import readable_status
from sam3ft_launch.kubernetes.kinds import JOB, POD, SERVICE
from sam3ft_operator.store import Child
from sam3ft_operator.views import child_of, clean, epoch_s, job_view, pod_view, resource_view, termination_of

UID = "11111111-2222-3333-4444-555555555555"
LABELS = {
    names.LABEL_MANAGED_BY: "sam3ft",
    names.LABEL_UID: UID,
    names.LABEL_ROLE: "worker",
    names.LABEL_ATTEMPT: "3",
    "batch.kubernetes.io/job-completion-index": "7",
}
POD_BODY: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "blood-3-7-x2x4z",
        "namespace": "lab",
        "uid": "p-1",
        "resourceVersion": "4711",
        "creationTimestamp": "2026-11-25T10:00:00Z",
        "labels": LABELS,
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "blood-3", "uid": "j-1", "controller": True}
        ],
        "managedFields": [{"manager": "kubelet"}],
    },
    "spec": {"nodeName": "node-1", "containers": [{"name": "worker"}]},
    "status": {
        "phase": "Running",
        "podIP": "10.244.0.9",
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True"},
        ],
        "containerStatuses": [
            {"name": "worker", "restartCount": 0, "state": {"running": {"startedAt": "2026-11-25T10:00:05Z"}}}
        ],
    },
}
JOB_BODY: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {
        "name": "blood-3",
        "namespace": "lab",
        "uid": "j-1",
        "resourceVersion": "4712",
        "creationTimestamp": "2026-11-25T10:00:00Z",
        "labels": LABELS,
        "ownerReferences": [{"kind": "SAM3FineTune", "name": "blood", "uid": UID, "controller": True}],
    },
    "spec": {"parallelism": 4, "completions": 4, "suspend": False},
    "status": {"active": 3, "succeeded": 1, "failed": 2, "uncountedTerminatedPods": {}},
}


def changed(body: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    """Return a copy with one value replaced."""
    found = copy.deepcopy(body)
    inner = found
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = to
    return found


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    """Return a pod whose container has ended."""
    state = {"exitCode": code, "message": message, "reason": reason, "finishedAt": "2026-11-25T11:00:00Z"}
    found = changed(POD_BODY, "status", "containerStatuses", to=[{"state": {"terminated": state}}])
    return changed(found, "status", "phase", to="Failed" if code else "Succeeded")


def test_a_running_pod_is_what_it_is() -> None:
    view = pod_view(POD_BODY)

    assert ("blood-3-7-x2x4z", "worker", 3, 7) == (view.name, view.role, view.attempt, view.index)
    assert ("Running", "node-1", "10.244.0.9", True) == (view.phase, view.node, view.address, view.is_ready)
    assert (None, None, "", "") == (view.exit_code, view.termination, view.reason, view.unschedulable)


def test_an_ended_pod_has_its_code_and_its_last_word() -> None:
    word = {"code": 14, "reason": "CheckpointIncompatible", "message": "the prefix is another's", "step": 12}
    view = pod_view(ended(14, json.dumps(word)))

    assert (14, "Error", 12) == (view.exit_code, view.reason, view.termination and view.termination.step)
    assert epoch_s("2026-11-25T11:00:00Z") == view.finished_s


def test_a_memory_kill_is_read_from_the_reason() -> None:
    assert "OOMKilled" == pod_view(ended(1, reason="OOMKilled")).reason


def test_an_evicted_pod_has_the_reason_of_the_pod() -> None:
    body = changed(POD_BODY, "status", "phase", to="Failed")
    body = changed(body, "status", "reason", to="Evicted")
    body = changed(body, "status", "containerStatuses", to=[])

    assert ("Evicted", True) == (pod_view(body).reason, pod_view(body).has_ended)


def test_a_pod_that_cannot_be_scheduled_says_why() -> None:
    body = changed(POD_BODY, "spec", to={"containers": []})
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes"}]
    body = changed(body, "status", to={"phase": "Pending", "conditions": conditions})

    assert "0/4 nodes" == pod_view(body).unschedulable


def test_a_pod_whose_image_does_not_come_says_so() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    body = changed(POD_BODY, "status", "containerStatuses", to=[{"state": waiting}])

    assert ("ImagePullBackOff", "Back-off pulling image") == (pod_view(body).waiting, pod_view(body).waiting_message)


@pytest.mark.parametrize(
    ("reason", "phase", "is_lost"),
    [
        ("DeletionByTaintManager", "Running", True),
        ("EvictionByEvictionAPI", "Running", False),
        ("DeletionByTaintManager", "Failed", False),
    ],
)
def test_a_node_is_lost_when_its_taint_has_deleted_a_pod_that_does_not_end(
    reason: str, phase: str, is_lost: object
) -> None:
    body = changed(POD_BODY, "metadata", "deletionTimestamp", to="2026-11-25T10:30:30Z")
    body = changed(body, "status", "conditions", to=[{"type": "DisruptionTarget", "status": "True", "reason": reason}])
    body = changed(body, "status", "phase", to=phase)
    view = pod_view(body)

    assert (True, is_lost) == (view.is_disrupted, view.is_node_lost)
    assert epoch_s("2026-11-25T10:30:30Z") == view.deletion_s


def test_a_job_is_what_it_is() -> None:
    view = job_view(JOB_BODY)

    assert ("blood-3", "worker", 3, 4, 4) == (view.name, view.role, view.attempt, view.parallelism, view.completions)
    assert (3, 1, 2, False, False) == (view.active, view.succeeded, view.failed, view.is_suspended, view.has_ended)


def test_a_failed_job_says_why_and_when() -> None:
    failed = {
        "type": "Failed",
        "status": "True",
        "reason": "PodFailurePolicy",
        "message": "Container worker failed with exit code 14",
        "lastTransitionTime": "2026-11-25T11:00:00Z",
    }
    view = job_view(changed(JOB_BODY, "status", "conditions", to=[failed]))

    assert ("PodFailurePolicy", True, False) == (view.failure_reason, view.has_ended, view.is_complete)
    assert epoch_s("2026-11-25T11:00:00Z") == view.finished_s


def test_a_complete_job_has_no_failure() -> None:
    complete = {"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": "all"}
    view = job_view(changed(JOB_BODY, "status", "conditions", to=[complete]))

    assert (True, "") == (view.is_complete, view.failure_reason)


def test_a_condition_that_does_not_hold_is_none() -> None:
    body = changed(JOB_BODY, "status", "conditions", to=[{"type": "Failed", "status": "False", "reason": "No"}])

    assert "" == job_view(body).failure_reason


def test_a_child_belongs_to_the_run_of_its_label_only_with_its_owner() -> None:
    assert (("lab", "blood-3"), Child(UID, 4712, job_view(JOB_BODY))) == child_of(JOB, JOB_BODY)
    assert (("lab", "blood-3-7-x2x4z"), Child(UID, 4711, pod_view(POD_BODY))) == child_of(POD, POD_BODY)
    assert child_of(JOB, changed(JOB_BODY, "metadata", "ownerReferences", to=[])) is None
    assert child_of(POD, changed(POD_BODY, "metadata", "ownerReferences", to=[])) is None
    assert child_of(SERVICE, changed(JOB_BODY, "metadata", "labels", names.LABEL_UID, to="another")) is None


def test_a_kind_of_which_only_the_existence_matters_has_no_view() -> None:
    assert (("lab", "blood-3"), Child(UID, 4712, None)) == child_of(SERVICE, JOB_BODY)


@pytest.mark.parametrize(
    "message",
    [
        None,
        7,
        "",
        "not json",
        "[]",
        "[" * 5000,
        json.dumps({"code": 14}),
        json.dumps({"code": 999, "reason": "X"}),
        json.dumps({"code": 1, "reason": "X", "surprise": 1}),
        json.dumps({"code": 1, "reason": "X", "message": "y" * 9000}),
        '{"code": 1, "reason": "X", "metrics": {"a": NaN}, "step": 1e999}',
    ],
)
def test_what_is_no_last_word_is_none(message: object) -> None:
    assert termination_of(message) is None


def test_a_last_word_keeps_neither_controls_nor_secrets() -> None:
    text = "bad\x1b]0;title\x07 \u202eevil password=hunter2\nsecond line"
    word = termination_of(json.dumps({"code": 1, "reason": "Internal\nError", "message": text, "node": "n\x00"}))

    assert word is not None
    assert ("Internal Error", "n") == (word.reason, word.node)
    assert "bad ]0;title   evil password=***\nsecond line" == word.message


def test_text_is_cut_after_its_secrets_are_masked() -> None:
    assert clean("x" * 20 + " token=abcdef", max_chars=24) == "x" * 20 + " tok"
    assert len(clean("a=1 secret=b " * 500, max_chars=100)) <= 100


@pytest.mark.parametrize("value", [None, 3, "", "yesterday", "2026-11-25", "2026-11-25T10:00:00", "9" * 100])
def test_what_is_no_time_is_none(value: object) -> None:
    assert epoch_s(value) is None


def test_a_spec_that_cannot_be_validated_names_every_problem() -> None:
    body = {"metadata": {"name": "a", "namespace": "b", "uid": UID}, "spec": {"model": 3, "surprise": 1}}
    view = resource_view(body)

    assert view.spec is None
    assert "model" in view.refusal
    assert "surprise" in view.refusal
    assert "data" in view.refusal


def test_a_valid_resource_is_what_it_is() -> None:
    spec = {"model": {"uri": "preset:tiny"}, "data": {"uri": "s3://a/b"}, "checkpoint": {"uri": "s3://c/d"}}
    metadata = {
        "name": "blood",
        "namespace": "lab",
        "uid": UID,
        "generation": 4,
        "creationTimestamp": "2026-11-25T10:00:00Z",
        "deletionTimestamp": "2026-11-25T10:00:00Z",
    }
    view = resource_view({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}})

    assert (4, True, "", "Running") == (view.generation, view.is_deleted, view.refusal, view.status.phase)


def test_a_status_loses_only_the_field_that_cannot_be_read() -> None:
    status = readable_status({"phase": "Running", "restarts": 2, "slurm": {"attempt": "many"}, "later": {"x": 1}})

    assert ("Running", 2, None) == (status.phase, status.restarts, status.slurm)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    *[
        ("metadata", name)
        for name in (
            "name",
            "namespace",
            "uid",
            "labels",
            "annotations",
            "ownerReferences",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "generation",
        )
    ],
    *[("spec", name) for name in ("parallelism", "completions", "suspend", "nodeName", "model", "workers")],
    *[
        ("status", name)
        for name in (
            "active",
            "conditions",
            "containerStatuses",
            "phase",
            "podIP",
            "reason",
            "completionTime",
            "attempts",
            "progress",
        )
    ],
    ("metadata",),
    ("spec",),
    ("status",),
]


@given(st.sampled_from([POD_BODY, JOB_BODY]), st.lists(st.tuples(st.sampled_from(FIELDS), JSON), max_size=4))
@settings(max_examples=400, deadline=None)
def test_no_object_is_an_error(base: dict[str, Any], changes: list[tuple[tuple[str, ...], Any]]) -> None:
    body = copy.deepcopy(base)
    for path, value in changes:
        if isinstance(body.get(path[0]), dict) or len(path) == 1:
            body = changed(body, *path, to=value)

    for kind in (POD, JOB, SERVICE):
        child_of(kind, body)
    pod_view(body)
    job_view(body)
    resource_view(body)
