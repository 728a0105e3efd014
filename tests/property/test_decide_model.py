"""Any sequence of deaths, edits, pauses, lost writes and stale views: what the operator decides keeps its promises.

A small cluster is simulated around `decide`: a Job controller that makes and counts pods, a coordinator that sees them,
a status that is written before the actions, an operator that may die between the two, and watches that may lag. Pods
take their grace, nodes fall silent with pods that only a write can end, and a run may wait in a queue.
"""

import os
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from decide_bench import CHECK_OBJECTS, OBJECTS, RUN, START_S, coordinator, failed_pod, spec_of
from decide_cluster import Cluster
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sam3ft_api import names
from sam3ft_api.messages import Verdict
from sam3ft_api.spec import SAM3FineTuneSpec
from sam3ft_api.status import BudgetStatus, DatasetStatus, Phase, SAM3FineTuneStatus
from sam3ft_api.termination import Termination
from sam3ft_operator.decide import decide
from sam3ft_operator.decide.budget import counted_within
from sam3ft_operator.decision import Admit, Decision, Delete, Ensure, FailPod, Part, Pause, Resize
from sam3ft_operator.observed import Children, JobView, Resource

QUIET_LOOKS = 60
"""Looks within which a run is at rest once nothing happens any more."""
CODES = st.sampled_from([0, 1, 11, 14, 20, 21, 22, 137, 143])


class Machine(RuleBasedStateMachine):
    """One run from its creation on."""

    def __init__(self) -> None:
        """Begin with a resource that nobody has looked at."""
        super().__init__()
        self.spec = spec_of(failurePolicy={"maxRestarts": 1, "windowSeconds": 900, "maxWithoutProgress": 3})
        self.status = SAM3FineTuneStatus()
        self.cluster = Cluster({}, {}, set())
        self.stale: Children | None = None
        self.now_s, self.commit, self.is_deleted = START_S, 0, False
        self.final: tuple[Phase, int] | None = None
        self.opened: list[int] = []
        self.num_counted = 0
        self.seen: set[Phase | None] = set()
        self.inactive: set[str] = set()
        self.num_steps = 0

    def children(self) -> Children:
        """Return what the operator sees now."""
        return self.stale or self.cluster.view(now_s=self.now_s, commit=self.commit)

    def resource(self) -> Resource:
        """Return the resource."""
        return Resource("ns", RUN, "uid", 1, START_S, self.spec, "", self.status, is_deleted=self.is_deleted)

    def step(self, *, acts: bool = True) -> Decision:
        """Let the operator look once: status, and then, unless it dies in between, the actions."""
        decision = decide(self.resource(), self.children(), now_s=self.now_s)
        if self.is_deleted:
            assert () == decision.actions
        self.note(decision.status)
        self.status = SAM3FineTuneStatus.model_validate_json(decision.status.model_dump_json())
        again = decide(self.resource(), self.children(), now_s=self.now_s)
        assert (decision.status, (), decision.actions) == (again.status, again.notes, again.actions), "no fixed point"
        if acts:
            for action in decision.actions:
                self.act(action)
        return decision

    def note(self, new: SAM3FineTuneStatus) -> None:
        """Check what may never happen between two statuses."""
        numbers = [attempt.n for attempt in new.attempts]
        assert numbers == sorted(set(numbers))
        assert all(attempt.finished is not None for attempt in new.attempts[:-1])
        if numbers and (not self.opened or numbers[-1] != self.opened[-1]):
            assert numbers[-1] == (self.opened[-1] + 1 if self.opened else 1)
            self.opened.append(numbers[-1])
        self.seen.add(new.phase)
        assert new.restarts <= self.num_counted, "an end was counted twice"
        policy, ledger = self.spec.failure_policy, new.budget or BudgetStatus()
        if new.phase is Phase.RUNNING:
            assert counted_within(ledger, window_s=policy.window_seconds, now_s=self.now_s) <= policy.max_restarts
            assert ledger.without_progress < policy.max_without_progress
        if self.final is not None and self.spec.retry == self.final[1]:
            assert new.phase is self.final[0], "a run that had ended went on without retry"
        self.final = (new.phase, self.spec.retry) if new.phase is not None and new.phase.is_final else None

    def act(self, action: Any) -> None:
        """Do one action as the API server would."""
        c = self.cluster
        match action:
            case Ensure(part=Part.PREFLIGHT):
                c.objects |= CHECK_OBJECTS
                c.serial += 1
                made = JobView("check", f"check-{c.serial}", names.ROLE_PREFLIGHT, created_s=self.now_s)
                c.jobs.setdefault("check", made)
            case Ensure(part=Part.GROUP, attempt=attempt):
                c.objects |= OBJECTS - CHECK_OBJECTS
                if "coordinator" not in c.pods:
                    c.pods["coordinator"] = coordinator(attempt, created_s=self.now_s)
            case Ensure(part=Part.WORKERS, attempt=attempt, nodes=nodes):
                assert (attempt, None) == (self.status.attempts[-1].n, self.status.attempts[-1].finished), "not open"
                others = [p.name for p in c.pods.values() if p.role == names.ROLE_WORKER and not p.has_ended]
                assert self.stale or not others, "pods of an older attempt still live"
                name = names.worker_job_name(RUN, attempt)
                c.serial += 1
                made = JobView(name, f"{name}-{c.serial}", names.ROLE_WORKER, attempt, self.now_s, nodes, nodes)
                c.jobs.setdefault(name, replace(made, is_suspended=self.spec.queue is not None))
                # What it has made itself it knows without a watch.
                self.stale = self.stale and replace(self.stale, jobs=(*self.stale.jobs, c.jobs[name]))
            case Resize(job=name, nodes=nodes):
                self.cluster.change_job(name, parallelism=nodes, completions=nodes)
            case Pause(job=name, suspend=suspend):
                self.cluster.change_job(name, is_suspended=suspend)
            case Admit(job=name, uid=uid, is_active=is_active):
                self.inactive.add(uid)
                self.cluster.change_job(name, uid=uid, is_suspended=not is_active)
            case FailPod(pod=name):
                assert c.pods[name].deletion_s is not None
                c.pods[name] = replace(c.pods[name], phase="Failed", is_disrupted=True, is_node_lost=False)
            case Delete():
                self.delete(action)
            case _:
                raise AssertionError(f"nothing here asks for {action}")

    def delete(self, action: Delete) -> None:
        """Delete one child as the API server would."""
        c, name = self.cluster, action.name
        if action.kind == "Job":
            number = c.jobs[name].attempt if name in c.jobs else 0
            closed = [attempt.n for attempt in self.status.attempts if attempt.finished is not None]
            assert number in (0, *closed), "deleted before what it left was written"
            self.cluster.change_job(name, uid=action.uid, is_deleted=True)
        elif action.kind == "Pod" and name in c.pods:
            if action.is_forced or not c.pods[name].is_node_lost:
                del c.pods[name]
        else:
            c.objects.discard((action.kind, name))

    @initialize(turns=st.sampled_from([0, 6, 6, 6]), queue=st.sampled_from([False, False, True]))
    def begin(self, turns: int, queue: bool) -> None:  # noqa: FBT001 - drawn
        """Most runs are disturbed once they train; some wait in a queue."""
        if queue:
            self.edit(queue={"localQueue": "gpu"})
        for _ in range(turns):
            self.turn()
            if self.opened == []:
                self.everyone_succeeds()

    @rule(which=st.integers(0, 7), disrupted=st.booleans())
    def kill_and_turn(self, which: int, disrupted: bool) -> None:  # noqa: FBT001 - drawn
        """A pod is killed, and everybody goes on."""
        self.end_a_pod(code=137, word=False, disrupted=disrupted, which=which)
        self.turn()

    @rule()
    def turn(self) -> None:
        """The controllers work, and the operator looks until nothing is due at once."""
        self.work()
        for _ in range(4):
            if self.step().requeue_s != 0.0:
                break

    @rule(turns=st.integers(1, 8), seconds=st.sampled_from([1.0, 15.0, 61.0]))
    def live(self, turns: int, seconds: float) -> None:
        """A while passes in which everybody works."""
        for _ in range(turns):
            self.turn()
            self.now_s += seconds

    @rule()
    def look(self) -> None:
        """The operator looks."""
        self.step()

    @rule()
    def look_and_die(self) -> None:
        """The operator writes the status and is killed."""
        self.step(acts=False)

    @rule()
    def work(self) -> None:
        """The controllers work, Kueue among them, and the watches catch up."""
        if self.spec.queue is not None and not self.spec.suspend:
            for name, job in self.cluster.jobs.items():
                if job.role == names.ROLE_WORKER and job.uid not in self.inactive:
                    self.cluster.jobs[name] = replace(job, is_suspended=False)
        self.cluster.control(now_s=self.now_s)
        self.stale = None

    @rule()
    def preempt(self) -> None:
        """Kueue takes the nodes back."""
        for name, job in self.cluster.jobs.items():
            if self.spec.queue is not None and job.role == names.ROLE_WORKER:
                self.cluster.jobs[name] = replace(job, is_suspended=True)

    @rule(which=st.integers(0, 7))
    def lose_a_node(self, which: int) -> None:
        """A node falls silent with one pod, of a worker or the coordinator; the cluster asks the pod to go."""
        alive = [p for p in self.cluster.pods.values() if not p.has_ended]
        if alive:
            p = alive[which % len(alive)]
            grace_s = p.deletion_s if p.deletion_s is not None else self.now_s + 120
            self.cluster.pods[p.name] = replace(p, is_node_lost=True, is_disrupted=True, deletion_s=grace_s)

    @rule(code=st.sampled_from([1, 11, 16, 22, 22, 24]))
    def give_a_verdict(self, code: int) -> None:
        """The group comes to a verdict, which its coordinator repeats to everyone."""
        lead = self.cluster.pods.get("coordinator")
        if lead is not None:
            self.cluster.verdict = Verdict(code=code, message="it is over")
            self.cluster.verdict_attempt = lead.attempt

    @rule(reason=st.sampled_from(["BackoffLimitExceeded", "PodFailurePolicy"]))
    def fail_the_job(self, reason: str) -> None:
        """The Job controller gives up a Job, for no reason that is a verdict."""
        for name, job in self.cluster.jobs.items():
            if job.role == names.ROLE_WORKER and not job.has_ended:
                self.cluster.jobs[name] = replace(job, failure_reason=reason, finished_s=self.now_s)

    @rule(is_mute=st.booleans(), dies=st.booleans())
    def trouble_the_coordinator(self, is_mute: bool, dies: bool) -> None:  # noqa: FBT001 - drawn
        """The coordinator does not answer, answers again, or ends."""
        self.cluster.is_mute = is_mute
        lead = self.cluster.pods.get("coordinator")
        if dies and lead is not None:
            self.cluster.pods["coordinator"] = replace(lead, phase="Failed")

    @rule(seconds=st.sampled_from([600, 86_400]))
    def set_a_deadline(self, seconds: int) -> None:
        """The user sets a deadline."""
        self.edit(activeDeadlineSeconds=seconds)

    @rule()
    def lag(self) -> None:
        """From here on the watches show what was."""
        self.stale = self.children()

    @rule(seconds=st.sampled_from([1.0, 15.0, 70.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds

    @rule(code=CODES, word=st.booleans(), disrupted=st.booleans(), which=st.integers(0, 7))
    def end_a_pod(self, code: int, word: bool, disrupted: bool, which: int) -> None:  # noqa: FBT001 - drawn
        """A pod of the workers, or of the check, ends."""
        alive = [p for p in self.cluster.pods.values() if p.role != names.ROLE_COORDINATOR and p.phase == "Running"]
        if not alive:
            return
        p = alive[which % len(alive)]
        if code == 0 or p.role == names.ROLE_PREFLIGHT:
            said = Termination(code=0, reason="Succeeded", dataset=DatasetStatus(images=1))
            ended = replace(p, phase="Succeeded", exit_code=0, finished_s=self.now_s, termination=said)
        else:
            ended = replace(
                failed_pod(p.attempt, p.index or 0, code, word=word, at_s=self.now_s, is_disrupted=disrupted),
                name=p.name, uid=p.uid, role=p.role,
            )  # fmt: skip
            self.num_counted += not disrupted and (code == 137 or (code == 1 and not word))
        self.cluster.pods[p.name] = ended

    @rule()
    def everyone_succeeds(self) -> None:
        """All pods but the coordinator end well."""
        self.cluster.succeed(names.ROLE_WORKER, names.ROLE_PREFLIGHT, now_s=self.now_s)

    @rule()
    def commit_a_step(self) -> None:
        """The trainer commits."""
        self.commit += 10

    @rule(nodes=st.integers(1, 4))
    def scale(self, nodes: int) -> None:
        """The user scales."""
        self.edit(workers={"nodes": nodes, "maxNodes": 4})

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:  # noqa: FBT001 - drawn
        """The user pauses or goes on."""
        self.edit(suspend=suspend)

    @precondition(lambda self: self.status.phase is Phase.FAILED)
    @rule()
    def retry(self) -> None:
        """The user tries again."""
        self.edit(retry=self.spec.retry + 1)

    @rule(which=st.integers(0, 9))
    def delete_by_hand(self, which: int) -> None:
        """Somebody deletes a child."""
        found = [*self.cluster.jobs, *self.cluster.pods]
        if found:
            name = found[which % len(found)]
            if name in self.cluster.jobs:
                self.cluster.jobs[name] = replace(self.cluster.jobs[name], is_deleted=True)
            else:
                self.cluster.pods.pop(name)

    @precondition(lambda self: len(self.opened) > 1)
    @rule()
    def delete_the_resource(self) -> None:
        """The user deletes the resource; garbage collection comes later."""
        self.is_deleted = True

    @invariant()
    def life_goes_on(self) -> None:
        """Between what is drawn, controllers and operator work now and then, so that most states are met."""
        self.num_steps += 1
        if self.num_steps % 2 == 0:
            if self.stale is None:
                self.work()
            self.step()
            self.now_s += 5

    @invariant()
    def one_attempt_lives(self) -> None:
        """Never two Jobs of workers that could both run pods."""
        living = [j for j in self.cluster.jobs.values() if j.role == names.ROLE_WORKER and not j.is_deleted]
        assert len(living) <= 1, [j.name for j in living]

    def edit(self, **sections: Any) -> None:
        """Change the spec."""
        document = self.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        self.spec = SAM3FineTuneSpec.model_validate(document | sections)

    def teardown(self) -> None:
        """Once nothing disturbs it, the run comes to rest, and stays there."""
        if self.is_deleted:
            return
        self.cluster.is_mute = False
        for _ in range(QUIET_LOOKS):
            self.work()
            self.cluster.succeed(names.ROLE_PREFLIGHT, now_s=self.now_s)
            decision = self.step()
            self.now_s += 61 if decision.requeue_s else 0
            if not decision.actions and decision.requeue_s != 0.0 and self._rests():
                assert self.status.phase in self._goals(), f"at rest in {self.status.phase}: {self.children()}"
                self._is_whole()
                break
        else:
            raise AssertionError(f"not at rest after {QUIET_LOOKS} looks: {self.status.phase} {decision.actions}")

    def _is_whole(self) -> None:
        """Check that nothing is missing of a run that trains, and nothing is left at work of one that does not."""
        alive = [p for p in self.cluster.pods.values() if not p.has_ended and p.deletion_s is None]
        workers = sum(p.role == names.ROLE_WORKER for p in alive)
        coordinators = sum(p.role == names.ROLE_COORDINATOR for p in alive)
        if self.status.phase is Phase.RUNNING:
            ended = sum(p.phase == "Succeeded" and p.role == names.ROLE_WORKER for p in self.cluster.pods.values())
            assert (self.spec.workers.nodes, 1) == (workers + ended, coordinators)
            assert self.cluster.objects >= OBJECTS
        else:
            living = [p.name for p in self.cluster.pods.values() if not p.has_ended and p.role == names.ROLE_WORKER]
            assert ([], 0) == (living, coordinators)

    def _goals(self) -> set[Phase]:
        """Return where a run may come to rest: where its user wants it, or at its end."""
        wanted = Phase.SUSPENDED if self.spec.suspend else Phase.RUNNING
        return {wanted, Phase.SUCCEEDED, Phase.FAILED}

    def _rests(self) -> bool:
        before = self.cluster.view(now_s=self.now_s, commit=self.commit)
        self.work()
        if before != self.cluster.view(now_s=self.now_s, commit=self.commit):
            return False
        after = decide(self.resource(), self.children(), now_s=self.now_s)
        changing = {"progress", "goodput", "conditions"}
        same = after.status.model_dump(exclude=changing) == self.status.model_dump(exclude=changing)
        return same and not after.actions


def check(*, runs: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=runs, stateful_step_count=steps, deadline=None, derandomize=False,
            suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip


def test_decisions_keep_their_promises_whatever_happens() -> None:
    check(runs=120, steps=50)


@pytest.mark.soak
def test_decisions_keep_their_promises_over_a_hundred_thousand_steps() -> None:
    check(runs=int(os.environ.get("SAM3FT_MODEL_RUNS", "1500")), steps=80)
