"""One line that says why a run is not running, and what to do."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sam3ft_launch.backend import RunState
from sam3ft_launch.kubernetes.explain import PATIENCE_S, explain
from sam3ft_launch.kubernetes.observe import exit_code_of, observed_of
from sam3ft_launch.kubernetes.runs import ClusterRun, to_run

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


def moment(ago_s: float) -> str:
    """Return a time before now as the API server writes it."""
    return (NOW - timedelta(seconds=ago_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(type_: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    """Return a condition."""
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment(5)}


def run(status: dict[str, Any] | None = None, *, age_s: float = 600, deleted: bool = False, **spec: Any) -> ClusterRun:
    """Return a run with this status."""
    metadata = {
        "name": "blood",
        "namespace": "lab",
        "uid": "u-1",
        "resourceVersion": "1",
        "generation": 2,
        "creationTimestamp": moment(age_s),
    }
    if deleted:
        metadata["deletionTimestamp"] = moment(3)
    if status:
        status = {"observedGeneration": 2, **status}
    return to_run({"metadata": metadata, "spec": spec, "status": status or {}})


def failed(reason: str, message: str, *, code: int | None = None) -> dict[str, Any]:
    """Return the status of a run that has failed."""
    return {
        "phase": "Failed",
        "summary": {"message": message},
        "conditions": [condition("Failed", "True", reason, message)],
        "attempts": [{"n": 1, "reason": reason, "exitCode": code, "finished": moment(5)}],
    }


CASES = {
    "new": (run(age_s=PATIENCE_S - 1), "blood is new: the operator has not looked at it yet"),
    "nobody": (
        run(age_s=90),
        (
            "blood is not looked after: no operator has looked at it since it was made, 90 s ago; "
            "to do: see whether the operator runs and looks after namespace lab"
        ),
    ),
    "deleted": (run(deleted=True), "blood is being deleted: since 2026-11-25 11:59:57 UTC; its pods save and end"),
    "verdict": (
        run(failed("InvalidDataset", "train has no images.", code=11)),
        (
            "blood is Failed: InvalidDataset: train has no images; to do: Correct the images or annotations named in "
            "the message, then sam3ft retry blood (code 11)"
        ),
    ),
    "budget": (
        run(failed("BudgetSpent", "10 restarts within an hour", code=24)),
        (
            "blood is Failed: BudgetSpent: 10 restarts within an hour; to do: No progress for too long; stacks of all "
            "threads are saved, then sam3ft retry blood (code 24)"
        ),
    ),
    "suspended": (
        run({"phase": "Suspended", "summary": {"message": "The nodes are given back."}}, suspend=True),
        "blood is Suspended: The nodes are given back; to do: sam3ft resume blood",
    ),
    "queued": (
        run(
            {
                "phase": "Queued",
                "conditions": [
                    condition("Scheduled", "False", "Queued", "It waits in LocalQueue gpu: no quota; free quota.")
                ],
            },
            queue={"localQueue": "gpu"},
        ),
        (
            "blood is Queued: It waits in LocalQueue gpu: no quota; to do: free quota; "
            "kubectl -n lab describe workloads tells its place"
        ),
    ),
    "trouble": (
        run(
            {
                "phase": "Starting",
                "summary": {"message": "Pod blood-1-0 has no node"},
                "conditions": [
                    condition("Degraded", "True", "Unschedulable", "Pod blood-1-0 has no node: 0/4; free nodes.")
                ],
            }
        ),
        "blood is Starting: Unschedulable: Pod blood-1-0 has no node: 0/4; to do: free nodes",
    ),
    "running": (
        run({"phase": "Running", "summary": {"message": "All 2 nodes train.", "step": "12/40", "eta": "3m"}}),
        "blood is Running: All 2 nodes train; step 12/40, ETA 3m",
    ),
    "behind": (
        run({"phase": "Running", "observedGeneration": 1, "summary": {"message": "All train."}}),
        "blood is Running: All train; the operator has not acted on the newest change of the spec yet",
    ),
    "done": (
        run({"phase": "Succeeded", "export": {"uri": "s3://models/blood"}}),
        "blood is Succeeded: the model is in s3://models/blood",
    ),
    "control": (
        run({"phase": "Running", "summary": {"message": "one\ntwo"}}),
        "blood is Running: one two",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_explained_in_one_line(name: str) -> None:
    found, line = CASES[name]

    assert line == explain(found, now=NOW).line(found.name)


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        ({}, RunState.PENDING, None),
        ({"phase": "Queued"}, RunState.PENDING, None),
        ({"phase": "Restarting"}, RunState.RUNNING, None),
        ({"phase": "Suspended"}, RunState.INTERRUPTED, 20),
        ({"phase": "Succeeded"}, RunState.SUCCEEDED, 0),
        (failed("InvalidDataset", "no", code=None), RunState.FAILED, 11),
        (failed("DeadlineExceeded", "no", code=20), RunState.FAILED, 20),
        (failed("BudgetSpent", "no", code=24), RunState.FAILED, 24),
        (failed("BudgetSpent", "no", code=None), RunState.FAILED, 1),
        (failed("Elsewhere", "no", code=0), RunState.FAILED, 1),
    ],
)
def test_a_status_is_told_in_the_words_of_every_backend(
    status: dict[str, Any], state: RunState, code: int | None
) -> None:
    found = run(status)

    assert (state, code) == (observed_of(found, now=NOW).state, exit_code_of(found))
