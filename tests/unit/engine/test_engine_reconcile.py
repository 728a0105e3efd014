"""One look at one run: the order of what is read and written, and what follows from each answer."""

from datetime import UTC, datetime
from typing import Any

import pytest
from engine_bench import UID, FakeApi, child

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.status import Condition, ConditionType, Phase, ProgressStatus, SAM3FineTuneStatus
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import JOB, WATCHED
from sam3ft_operator.agents import Agents
from sam3ft_operator.decision import Decision, Ensure, Note, Part
from sam3ft_operator.effects import Refused, Withdrawn
from sam3ft_operator.observed import Children, JobView, Resource
from sam3ft_operator.progress import Target
from sam3ft_operator.queue import WorkQueue
from sam3ft_operator.reconcile import FIGURES_PER_S, RESYNC_S, Outcome, Reconciler, Sight
from sam3ft_operator.store import ChildStore, ResourceStore
from sam3ft_operator.trouble import Troubles, lacks_pods
from sam3ft_operator.views import child_of
from sam3ft_operator.workers import Workers

SPEC = {"model": {"uri": "preset:tiny"}, "data": {"uri": "s3://a/b"}, "checkpoint": {"uri": "s3://c/d"}}
RUNNING = SAM3FineTuneStatus(phase=Phase.RUNNING)
NOTE = Note("Normal", "Told", "a sentence")


class Bench:
    """A reconciler on recorders; `order` holds what was done."""

    def __init__(self, *decisions: Decision) -> None:
        """Have one resource, and a core that decides these in turn."""
        self.api = FakeApi()
        self.order: list[str] = []
        self.trouble: Exception | None = None
        self.seen: list[Children] = []
        self.targets: list[Target | None] = []
        self.now_s = 1000.0
        self.refusal = ""
        self.refusals: list[str] = []
        self._decisions = list(decisions)
        self.resources = ResourceStore(changed=lambda _: None)
        self.children = ChildStore([kind.name for kind in WATCHED], changed=lambda _: None)
        metadata = {"name": "blood", "namespace": "lab", "uid": UID, "generation": 1, "resourceVersion": "5"}
        self.api.objects["SAM3FineTune", "blood"] = {"metadata": metadata, "spec": SPEC, "status": {}}
        self.resources.put(self.api.objects["SAM3FineTune", "blood"])
        self.api.refuse = lambda verb, kind, _name: self.order.append(f"{verb} {kind}")
        fake: Any = self.api
        stand_in: Any = self
        sight = Sight(self.resources, self.children, stand_in, Troubles(fake), Agents(fake), 7351)
        self.reconciler = Reconciler(
            fake,
            sight,
            effects=stand_in,
            notes=stand_in,
            decide=self._decide,
            refusal=lambda _: self.refusal,
            now_s=lambda: self.now_s,
            written=lambda *_, **__: self.order.append("written"),
        )

    def _decide(self, resource: Resource, children: Children, **_: float) -> Decision:
        self.seen.append(children)
        self.refusals.append(resource.refusal if resource.spec is None else "")
        return self._decisions.pop(0)

    def apply(self, _resource: Resource, action: object) -> None:
        """Stand for the effects."""
        self.order.append(type(action).__name__)
        if self.trouble is not None:
            raise self.trouble

    def tell(self, _resource: Resource, note: Note) -> None:
        """Stand for the notes."""
        self.order.append(f"tell {note.reason}")

    def follow(self, _uid: str, target: Target | None) -> None:
        """Stand for the reader of progress."""
        self.targets.append(target)

    def look(self) -> Outcome:
        """Look once."""
        return self.reconciler.reconcile(UID)


def test_the_status_is_written_before_the_actions_and_the_notes_come_last() -> None:
    bench = Bench(Decision(RUNNING, (Ensure(Part.PREFLIGHT),), (NOTE,), 30.0))

    assert Outcome(30.0) == bench.look()
    assert ["patch SAM3FineTune", "written", "Ensure", "tell Told"] == bench.order


def test_a_status_is_written_with_the_version_that_was_read() -> None:
    bench = Bench(Decision(RUNNING))
    bench.look()

    assert ("5", UID) == tuple(bench.api.bodies[0]["metadata"][name] for name in ("resourceVersion", "uid"))
    assert "Running" == (bench.resources.get(UID) or {})["status"]["phase"]


def test_an_equal_status_is_not_written() -> None:
    bench = Bench(Decision(RUNNING), Decision(RUNNING))
    bench.look()
    bench.order.clear()

    assert Outcome(RESYNC_S) == bench.look()
    assert [] == bench.order


def test_after_a_conflict_nothing_is_done_and_the_resource_is_read_again() -> None:
    bench = Bench(Decision(RUNNING, (Ensure(Part.PREFLIGHT),), (NOTE,)))
    bench.api.objects["SAM3FineTune", "blood"]["metadata"]["resourceVersion"] = "9"
    outcome = bench.look()

    assert Outcome(0.0) == outcome
    assert ["patch SAM3FineTune", "get SAM3FineTune"] == bench.order
    assert "9" == (bench.resources.get(UID) or {})["metadata"]["resourceVersion"]


def test_a_resource_that_is_gone_is_forgotten_and_nothing_is_made_for_it() -> None:
    bench = Bench(Decision(RUNNING, (Ensure(Part.PREFLIGHT),)))
    del bench.api.objects["SAM3FineTune", "blood"]
    bench.look()

    assert "Ensure" not in bench.order
    assert bench.resources.get(UID) is None
    assert Outcome(None) == bench.look()
    assert bench.targets[-1] is None


def test_a_child_is_not_made_again_for_a_resource_that_is_gone_meanwhile() -> None:
    bench = Bench(Decision(RUNNING), Decision(RUNNING, (Ensure(Part.WORKERS),)))
    bench.look()
    del bench.api.objects["SAM3FineTune", "blood"]

    assert Outcome(0.0) == bench.look()
    assert "Ensure" not in bench.order
    assert Outcome(None) == bench.look()


def test_a_child_is_not_made_again_for_a_resource_that_is_being_deleted() -> None:
    bench = Bench(Decision(RUNNING), Decision(RUNNING, (Ensure(Part.WORKERS),)))
    bench.look()
    stored = bench.api.objects["SAM3FineTune", "blood"]["metadata"]
    stored |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "100000"}

    assert Outcome(0.0) == bench.look()
    assert "Ensure" not in bench.order


def test_a_child_that_is_missing_is_made_again() -> None:
    bench = Bench(Decision(RUNNING), Decision(RUNNING, (Ensure(Part.WORKERS),), (), 30.0))
    bench.look()

    assert Outcome(30.0) == bench.look()
    assert ["get SAM3FineTune", "Ensure"] == bench.order[-2:]


def test_another_resource_of_the_same_name_is_not_taken_for_it() -> None:
    bench = Bench(Decision(RUNNING))
    bench.api.objects["SAM3FineTune", "blood"]["metadata"] |= {"uid": "another", "resourceVersion": "9"}
    bench.look()

    assert bench.resources.get(UID) is None


def test_a_status_that_cannot_be_written_stops_the_look() -> None:
    bench = Bench(Decision(RUNNING, (Ensure(Part.PREFLIGHT),)))

    def refuse(*_: str) -> None:
        raise ApiProblem(500, "", "")

    bench.api.refuse = refuse
    with pytest.raises(ApiProblem):
        bench.look()

    assert [] == bench.order


@pytest.mark.parametrize("trouble", [Refused("NameTaken", "b exists"), InvalidConfig("no such profile")])
def test_an_action_in_whose_way_something_stands_is_told_and_tried_again(trouble: Exception) -> None:
    bench = Bench(Decision(RUNNING, (Ensure(Part.PREFLIGHT), Ensure(Part.GROUP)), (NOTE,)))
    bench.trouble = trouble
    outcome = bench.look()

    assert outcome.failed
    assert 1 == bench.order.count("Ensure")
    assert 2 == len([it for it in bench.order if it.startswith("tell")])


def test_a_resource_that_goes_while_its_objects_are_made_is_looked_at_again_and_nobody_is_told() -> None:
    bench = Bench(Decision(RUNNING, (Ensure(Part.PREFLIGHT), Ensure(Part.GROUP))))
    bench.trouble = Withdrawn()

    assert Outcome(0.0) == bench.look()
    assert 1 == bench.order.count("Ensure")
    assert [] == [it for it in bench.order if it.startswith("tell")]


def test_notes_of_a_status_that_is_written_are_told_though_its_actions_fail() -> None:
    bench = Bench(Decision(RUNNING, (Ensure(Part.PREFLIGHT),), (NOTE,)))
    bench.trouble = ApiProblem(500, "", "")
    with pytest.raises(ApiProblem):
        bench.look()

    assert "tell Told" == bench.order[-1]


def test_running_figures_are_written_now_and_then() -> None:
    decisions = [
        Decision(SAM3FineTuneStatus(phase=Phase.RUNNING, progress=ProgressStatus(step=step))) for step in (1, 2, 3)
    ]
    bench = Bench(*decisions)
    bench.look()
    bench.now_s += 4.0
    waited = bench.look()
    bench.now_s += 6.0
    bench.look()

    assert 6.0 == waited.again_s
    assert 2 == bench.order.count("patch SAM3FineTune")


def test_figures_of_very_many_runs_wait_for_each_other() -> None:
    uids = [f"{number:036d}" for number in range(3 * int(FIGURES_PER_S))]
    decisions = [Decision(RUNNING.model_copy(update={"progress": ProgressStatus(step=7)})) for _ in (*uids, UID)]
    bench = Bench(*decisions)
    for uid in uids:
        metadata = {"name": uid, "namespace": "lab", "uid": uid, "generation": 1, "resourceVersion": "5"}
        found = {"metadata": metadata, "spec": SPEC, "status": {"phase": "Running"}}
        bench.api.objects["SAM3FineTune", uid] = found
        bench.resources.put(found)
    waits_s = [bench.reconciler.reconcile(uid).again_s or 0.0 for uid in uids]
    late = next(uid for uid, wait_s in zip(uids, waits_s, strict=True) if 0 < wait_s < RESYNC_S)
    written = bench.order.count("patch SAM3FineTune")
    bench.now_s += 3.0
    bench._decisions.append(decisions[0])
    bench.reconciler.reconcile(late)

    assert FIGURES_PER_S <= written < 1.5 * FIGURES_PER_S
    assert 1.0 < max(wait_s for wait_s in waits_s if wait_s < RESYNC_S) < 2.1
    assert written + 1 == bench.order.count("patch SAM3FineTune")


def test_pods_that_start_one_by_one_are_not_a_write_each() -> None:
    def ready(count: int, phase: Phase = Phase.STARTING) -> Decision:
        condition = Condition(
            type=ConditionType.SCHEDULED,
            status="Unknown",
            reason="Starting",
            message=f"{count} of 8 pods have a node.",
            last_transition_time=datetime.fromtimestamp(1000, UTC),
        )
        return Decision(SAM3FineTuneStatus(phase=phase, replicas=count, conditions=(condition,)))

    bench = Bench(ready(1), ready(3), ready(6), ready(8), ready(8, Phase.RUNNING))
    bench.look()
    bench.now_s += 0.25
    waited = bench.look()
    bench.now_s += 0.25
    bench.look()
    bench.now_s += 0.5
    bench.look()
    bench.look()

    assert 0.75 == waited.again_s
    assert 3 == bench.order.count("patch SAM3FineTune")
    assert ("Running", 8) == tuple(
        bench.api.objects["SAM3FineTune", "blood"]["status"][it] for it in ("phase", "replicas")
    )


def test_a_coordinator_that_runs_is_asked_and_the_newest_of_two() -> None:
    bench = Bench(Decision(RUNNING))
    for attempt in (1, 2):
        body = child("Pod", f"c{attempt}", attempt=attempt, status={"phase": "Running", "podIP": f"10.0.0.{attempt}"})
        body["metadata"]["labels"]["sam3ft.dev/role"] = "coordinator"
        found = child_of(WATCHED[1], body)
        assert found is not None
        bench.children.put("Pod", *found)
    bench.look()

    assert [Target("10.0.0.2", 7351, 2)] == bench.targets


def test_why_a_job_has_no_pods_is_asked_once_in_a_while() -> None:
    bench = Bench(Decision(RUNNING), Decision(RUNNING))
    found = child_of(JOB, child("Job", "blood-1", spec={"parallelism": 2}))
    assert found is not None
    bench.children.put("Job", *found)
    bench.api.pages = [
        {
            "items": [
                {"message": "old", "lastTimestamp": "2026-11-25T10:00:00Z"},
                {"message": "exceeded quota: gpus", "lastTimestamp": "2026-11-25T10:05:00Z"},
            ]
        }
    ]
    bench.look()
    bench.look()

    assert ["exceeded quota: gpus"] * 2 == [seen.jobs[0].trouble for seen in bench.seen]
    assert 1 == bench.order.count("list Event")


@pytest.mark.parametrize(
    ("job", "lacks"),
    [
        (JobView("j", "u", "worker", parallelism=2, active=1), True),
        (JobView("j", "u", "worker", parallelism=2, active=1, succeeded=1), False),
        (JobView("j", "u", "worker", parallelism=2, is_suspended=True), False),
        (JobView("j", "u", "worker", parallelism=2, is_complete=True), False),
        (JobView("j", "u", "worker", parallelism=2, created_s=97.0), False),
    ],
)
def test_only_a_job_that_should_have_pods_lacks_them(job: JobView, lacks: object) -> None:
    assert lacks == lacks_pods(job, now_s=100.0)


def test_a_look_that_fails_in_any_way_ends_no_worker() -> None:
    queue = WorkQueue()
    looks: list[tuple[str, bool]] = []
    troubles: dict[str, Exception] = {"a": ApiProblem(500, "", ""), "b": KeyError("defect")}

    def reconcile(key: str) -> Outcome:
        if key in troubles:
            raise troubles[key]
        return Outcome(None)

    def observed(_seconds: float, *, failed: bool) -> None:
        looks.append(("", failed))
        if len(looks) == 3:
            queue.close()

    workers = Workers(queue, reconcile, count=1, observed=observed)
    for key in "abc":
        queue.add(key)
    workers.start()

    assert workers.join(within_s=10.0)
    assert [True, True, False] == [failed for _, failed in looks]


@pytest.mark.parametrize(("has_begun", "refusal"), [(False, "no such profile"), (True, "")])
def test_what_this_cluster_cannot_run_is_refused_unless_it_has_begun(has_begun: bool, refusal: str) -> None:  # noqa: FBT001
    bench = Bench(Decision(RUNNING))
    bench.refusal = "no such profile"
    if has_begun:
        raw = bench.api.objects["SAM3FineTune", "blood"] | {"status": {"attempts": [{"n": 1}]}}
        bench.resources.put(raw | {"metadata": raw["metadata"] | {"resourceVersion": "6"}})

    bench.reconciler.reconcile(UID)

    assert [refusal] == bench.refusals
