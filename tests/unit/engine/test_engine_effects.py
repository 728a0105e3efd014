"""Actions on an API server that records them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from engine_bench import UID, FakeApi, child

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import JOB, WATCHED
from sam3ft_operator.decision import Admit, Delete, Ensure, FailPod, Hold, Part, Pause, Resize
from sam3ft_operator.effects import Effects, Refused, Withdrawn
from sam3ft_operator.observed import Resource
from sam3ft_operator.store import ChildStore
from sam3ft_operator.views import child_of

RESOURCE = Resource("lab", "blood", UID, 1, 0.0, None)


class Renderer:
    """Renders what a test wants."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        """Keep the objects."""
        self._objects = objects

    def refusal(self, _: Resource) -> str:
        """Refuse nothing."""
        return ""

    def objects(self, *_: object) -> Sequence[Mapping[str, Any]]:
        """Return the objects of every part."""
        return self._objects

    def with_key(self, secret: Mapping[str, Any], key: bytes) -> dict[str, Any]:
        """Return the Secret with its key."""
        return {**secret, "data": key.hex()}


def bench(*objects: dict[str, Any]) -> tuple[FakeApi, ChildStore, Effects]:
    """Return an API server, the cache, and what acts on them."""
    api = FakeApi()
    api.objects["SAM3FineTune", "blood"] = {"metadata": {"name": "blood", "uid": UID}}
    store = ChildStore([kind.name for kind in WATCHED], changed=lambda _: None)
    fake: Any = api
    return api, store, Effects(fake, store, Renderer(*objects), new_key=lambda: b"k" * 32)


def with_job(store: ChildStore, api: FakeApi) -> None:
    """Have a Job that is known."""
    body = child("Job", "blood-1", spec={"parallelism": 2, "completions": 2}, attempt=1)
    api.objects["Job", "blood-1"] = body
    found = child_of(JOB, body)
    assert found is not None
    store.put("Job", *found)


def test_objects_are_made_in_their_order_and_seen_at_once() -> None:
    api, store, effects = bench(child("ConfigMap", "a"), child("Job", "b"))
    effects.apply(RESOURCE, Ensure(Part.PREFLIGHT))

    assert [("create", "ConfigMap", "a"), ("create", "Job", "b")] == api.calls
    assert [("ConfigMap", "a"), ("Job", "b")] == [found[:2] for found in store.of_run("lab", UID)]


def test_made_again_nothing_happens() -> None:
    api, _, effects = bench(child("ConfigMap", "a"), child("Job", "b"))
    effects.apply(RESOURCE, Ensure(Part.PREFLIGHT))
    before = dict(api.objects)
    effects.apply(RESOURCE, Ensure(Part.PREFLIGHT))

    assert before == api.objects


def test_a_name_that_belongs_to_another_is_refused_with_both_ways_out() -> None:
    api, _, effects = bench(child("ConfigMap", "a"))
    api.objects["ConfigMap", "a"] = child("ConfigMap", "a", uid="somebody")
    with pytest.raises(Refused, match="ConfigMap a exists and is not this run's; delete it, or") as caught:
        effects.apply(RESOURCE, Ensure(Part.PREFLIGHT))

    assert "NameTaken" == caught.value.reason


@pytest.mark.parametrize(
    "change", [{"deletionTimestamp": "2026-11-25T10:00:00Z"}, {"labels": {"sam3ft.dev/attempt": "1"}}]
)
def test_a_pod_of_the_attempt_before_is_waited_for(change: dict[str, Any]) -> None:
    api, _, effects = bench(child("Pod", "coordinator", attempt=2))
    old = child("Pod", "coordinator", attempt=2)
    old["metadata"] |= change
    api.objects["Pod", "coordinator"] = old
    with pytest.raises(Refused, match="has not ended yet"):
        effects.apply(RESOURCE, Ensure(Part.GROUP, attempt=2))


@pytest.mark.parametrize(
    "now", [None, {"uid": "another"}, {"uid": UID, "deletionTimestamp": "2026-11-25T10:00:00Z"}], ids=str
)
@pytest.mark.parametrize("made_by_another", ["Secret", "Service"])
def test_who_finds_another_s_objects_makes_no_more_for_a_resource_that_is_deleted(
    now: dict[str, Any] | None, made_by_another: str
) -> None:
    api, _, effects = bench(child(made_by_another, "a"), child("Job", "b"))
    api.objects[made_by_another, "a"] = child(made_by_another, "a")
    api.objects["SAM3FineTune", "blood"]["metadata"] = now
    if now is None:
        del api.objects["SAM3FineTune", "blood"]

    with pytest.raises(Withdrawn):
        effects.apply(RESOURCE, Ensure(Part.WORKERS))
    assert ("Job", "b") not in api.objects


def test_who_finds_another_s_objects_makes_the_rest() -> None:
    api, _, effects = bench(child("Secret", "a"), child("Service", "b"), child("Job", "c"))
    api.objects["Secret", "a"], api.objects["Service", "b"] = child("Secret", "a"), child("Service", "b")
    effects.apply(RESOURCE, Ensure(Part.WORKERS))

    assert ("Job", "c") in api.objects


def test_the_secret_gets_its_key_and_is_never_read() -> None:
    api, store, effects = bench(child("Secret", "token"))
    effects.apply(RESOURCE, Ensure(Part.GROUP))
    effects.apply(RESOURCE, Ensure(Part.GROUP))

    assert (b"k" * 32).hex() == api.objects["Secret", "token"]["data"]
    assert {"create"} == {verb for verb, kind, _ in api.calls if kind == "Secret"}
    assert [] == store.of_run("lab", UID)


@pytest.mark.parametrize("code", [400, 403, 422])
def test_what_the_server_refuses_for_good_is_told_with_its_words(code: int) -> None:
    api, _, effects = bench(child("Job", "b"))

    def refuse(*_: str) -> None:
        raise ApiProblem(code, "Forbidden", "exceeded quota: gpus")

    api.refuse = refuse
    with pytest.raises(Refused, match=r"Job b: .*exceeded quota: gpus"):
        effects.apply(RESOURCE, Ensure(Part.WORKERS))


def test_a_server_that_is_not_well_is_a_problem_for_later() -> None:
    api, _, effects = bench(child("Job", "b"))

    def refuse(*_: str) -> None:
        raise ApiProblem(500, "", "")

    api.refuse = refuse
    with pytest.raises(ApiProblem):
        effects.apply(RESOURCE, Ensure(Part.WORKERS))


def test_a_job_is_resized_as_one_change_with_its_uid() -> None:
    api, store, effects = bench()
    with_job(store, api)
    effects.apply(RESOURCE, Resize("blood-1", 5))

    assert [{"metadata": {"uid": "uid-of-blood-1"}, "spec": {"parallelism": 5, "completions": 5}}] == api.bodies
    [(_, _, view)] = store.of_run("lab", UID)
    assert 5 == getattr(view, "parallelism", None)


def test_a_job_is_paused() -> None:
    api, store, effects = bench()
    with_job(store, api)
    effects.apply(RESOURCE, Pause("blood-1", suspend=True))

    assert [{"metadata": {"uid": "uid-of-blood-1"}, "spec": {"suspend": True}}] == api.bodies


def test_the_workload_of_a_job_is_found_by_its_label_and_put_to_rest() -> None:
    api, _, effects = bench()
    api.objects["Workload", "job-blood-1-ab"] = {"metadata": {"name": "job-blood-1-ab"}, "spec": {"active": True}}
    api.pages.append({"items": [api.objects["Workload", "job-blood-1-ab"]]})
    effects.apply(RESOURCE, Admit("blood-1", "uid-of-blood-1", is_active=False))

    assert "kueue.x-k8s.io/job-uid=uid-of-blood-1" == api.queries[0]["labelSelector"]
    assert {"active": False} == api.objects["Workload", "job-blood-1-ab"]["spec"]


def test_a_queue_without_kueue_is_told() -> None:
    api, _, effects = bench()

    def missing(*_: str) -> None:
        raise ApiProblem(404, "NotFound", "the server could not find the requested resource")

    api.refuse = missing
    with pytest.raises(Refused, match="Kueue is not there"):
        effects.apply(RESOURCE, Admit("blood-1", "uid-of-blood-1", is_active=False))


def test_a_job_that_is_not_there_is_not_changed() -> None:
    api, _, effects = bench()
    effects.apply(RESOURCE, Resize("blood-1", 5))

    assert [] == api.calls


def test_what_is_known_to_be_there_is_not_made_again() -> None:
    api, store, effects = bench(child("ConfigMap", "a"), child("Service", "b"), child("Job", "c"))
    effects.apply(RESOURCE, Ensure(Part.PREFLIGHT))
    store.remove("Service", ("lab", "b"), version=10**6)
    del api.objects["Service", "b"]
    api.calls.clear()
    effects.apply(RESOURCE, Ensure(Part.PREFLIGHT))

    told = [("create", "Service", "b"), ("create", "Job", "c"), ("get", "SAM3FineTune", "blood"), ("get", "Job", "c")]
    assert told == api.calls


def refused(api: FakeApi, verb: str, code: int) -> None:
    """Let the API server refuse everything of a verb."""

    def refuse(asked: str, *_: str) -> None:
        if asked == verb:
            raise ApiProblem(code, "", "")

    api.refuse = refuse


@pytest.mark.parametrize(("code", "names"), [(404, []), (409, []), (409, ["blood-1"])])
def test_what_is_gone_or_another_by_now_is_deleted(code: int, names: list[str]) -> None:
    api, _, effects = bench()
    for name in names:
        api.objects["Job", name] = child("Job", name)
    refused(api, "delete", code)
    effects.apply(RESOURCE, Delete("Job", "blood-1", "u"))

    assert ("delete", "Job", "blood-1") == api.calls[0]
    assert [{"uid": "u"}] == api.bodies


def test_a_conflict_about_what_is_still_there_is_not_taken_for_done() -> None:
    api, _, effects = bench()
    for kind, name in (("Job", "blood-1"), ("Pod", "blood-1-0")):
        api.objects[kind, name] = child(kind, name)
    refused(api, "delete", 409)
    with pytest.raises(ApiProblem):
        effects.apply(RESOURCE, Delete("Job", "blood-1", "uid-of-blood-1"))
    refused(api, "patch", 409)
    with pytest.raises(ApiProblem):
        effects.apply(RESOURCE, FailPod("blood-1-0", "uid-of-blood-1-0", "its node is gone"))


def test_a_pod_whose_end_nobody_will_confirm_is_deleted_by_force() -> None:
    api, _, effects = bench()
    api.objects["Pod", "blood-coordinator"] = child("Pod", "blood-coordinator")
    effects.apply(RESOURCE, Delete("Pod", "blood-coordinator", "some-uid", is_forced=True))

    assert [{"uid": "some-uid", "is_forced": True}] == api.bodies


def test_a_deletion_that_is_forbidden_is_not_taken_for_done() -> None:
    api, _, effects = bench()

    def refuse(*_: str) -> None:
        raise ApiProblem(403, "Forbidden", "")

    api.refuse = refuse
    with pytest.raises(ApiProblem):
        effects.apply(RESOURCE, Delete("Job", "blood-1"))


def test_a_pod_on_a_dead_node_is_ended_by_its_status() -> None:
    api, _, effects = bench()
    api.objects["Pod", "p"] = child("Pod", "p")
    effects.apply(RESOURCE, FailPod("p", "u", "node-1 does not\x00 answer"))

    [body] = api.bodies
    assert {
        "metadata": {"uid": "u"},
        "status": {"phase": "Failed", "reason": "NodeLost", "message": "node-1 does not  answer"},
    } == body


def test_the_finalizer_is_applied_and_taken_off_as_a_field_of_the_operators_own() -> None:
    api, _, effects = bench()
    api.objects["SAM3FineTune", "blood"] = {"metadata": {"name": "blood", "uid": UID}}
    effects.apply(RESOURCE, Hold())
    effects.apply(RESOURCE, Hold(is_held=False))
    held, free = (body["metadata"] for body in api.bodies)
    assert (["sam3ft.dev/slurm-job"], UID, False) == (held["finalizers"], held["uid"], "finalizers" in free)
    assert {"metadata"} == set(api.bodies[0]) - {"apiVersion", "kind"}


def test_a_resource_that_is_gone_is_not_held() -> None:
    api, _, effects = bench()
    effects.apply(RESOURCE, Hold(is_held=False))
    api.refuse = _conflict
    with pytest.raises(ApiProblem):
        effects.apply(RESOURCE, Hold())


def _conflict(verb: str, _kind: str, _name: str) -> None:
    raise ApiProblem(403 if verb == "patch" else 404, "Forbidden", "no")
