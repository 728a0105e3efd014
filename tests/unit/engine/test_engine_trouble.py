"""Why the pods of a Job are not made: asked of events, or of Kueue, and not too often."""

from itertools import pairwise
from typing import Any

import pytest
from engine_bench import FakeApi

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_operator.observed import JobView
from sam3ft_operator.trouble import KEPT_S, PATIENCE_S, Troubles

QUEUED = JobView("blood-1", "u", "worker", 1, created_s=1000.0, is_suspended=True, queue="gpu")


def workload(created: str, status: str, message: str) -> dict[str, Any]:
    reserved = {"type": "QuotaReserved", "status": status, "message": message}
    return {"metadata": {"creationTimestamp": created}, "status": {"conditions": [reserved]}}


def test_kueue_says_why_a_job_waits_in_its_queue() -> None:
    old, new = workload("2026-01-01T00:00:00Z", "True", ""), workload("2026-01-02T00:00:00Z", "False", "no\x1b quota")
    fake: Any = FakeApi(pages=[{"items": [new, old]}])
    words = Troubles(fake).of("lab", QUEUED, now_s=1000 + PATIENCE_S)

    assert "no  quota" == words
    assert [("list", "Workload", "")] == fake.calls
    assert "kueue.x-k8s.io/job-uid=u" == fake.queries[0]["labelSelector"]


@pytest.mark.parametrize("page", [{}, {"items": []}, {"items": [{}]}, {"items": [workload("", "True", "reserved")]}])
def test_kueue_may_say_nothing(page: dict[str, Any]) -> None:
    fake: Any = FakeApi(pages=[page])
    assert "" == Troubles(fake).of("lab", QUEUED, now_s=1060.0)


def test_a_cluster_without_kueue_is_told() -> None:
    fake: Any = FakeApi()

    def refuse(*_: str) -> None:
        raise ApiProblem(404, "NotFound", "the server could not find the requested resource")

    fake.refuse = refuse
    assert "Kueue is not there" in Troubles(fake).of("lab", QUEUED, now_s=1060.0)


def test_the_longer_a_job_waits_the_less_often_kueue_is_asked() -> None:
    fake: Any = FakeApi(pages=[{"items": []} for _ in range(100)])
    troubles = Troubles(fake)
    asked_after_s = []
    for now_s in range(1000, 5600):
        before = len(fake.calls)
        troubles.of("lab", QUEUED, now_s=float(now_s))
        asked_after_s += [now_s - 1000] if len(fake.calls) > before else []
    gaps = [later - earlier for earlier, later in pairwise(asked_after_s)]

    assert (int(PATIENCE_S), int(KEPT_S)) == (asked_after_s[0], gaps[0])
    assert gaps == sorted(gaps)
    assert 300 < gaps[-1] <= 600


def test_what_kueue_said_is_no_reason_for_pods_that_are_missing_after_admission() -> None:
    fake: Any = FakeApi(pages=[{"items": [workload("", "False", "no quota")]}, {"items": []}])
    troubles = Troubles(fake)
    admitted = JobView("blood-1", "u", "worker", 1, created_s=1000.0, queue="gpu")

    assert "no quota" == troubles.of("lab", QUEUED, now_s=1010.0)
    assert "" == troubles.of("lab", admitted, now_s=1011.0)
