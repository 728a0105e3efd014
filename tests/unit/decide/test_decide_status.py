"""What a status says and when it changes: conditions, events, figures, and values that cannot be trusted."""

from typing import Any

import pytest
from decide_bench import (
    CHECK_OBJECTS,
    START_S,
    Run,
    check_job,
    check_pod,
    coordinator,
    failed_pod,
    group,
    job,
    make_children,
    pod,
    running,
    spec_of,
    started,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ft_api.messages import Verdict
from sam3ft_api.status import ConditionType, Phase
from sam3ft_api.termination import Termination
from sam3ft_api.worker import Progress
from sam3ft_operator.decide import is_worth_writing
from sam3ft_operator.decide.attempts import MOST_ENDS
from sam3ft_operator.decision import Ensure, Part


def told(run: Run) -> list[str]:
    """Return the reasons of the events since the last question."""
    reasons = [note.reason for note in run.notes]
    run.notes.clear()
    return reasons


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    run = running()
    times = {c.type: c.last_transition_time for c in run.status.conditions}
    run.wait(100)
    run.change(activeDeadlineSeconds=9999)
    run.look()
    assert times == {c.type: c.last_transition_time for c in run.status.conditions}
    assert {run.generation} == {c.observed_generation for c in run.status.conditions if c.type != "DatasetReady"}
    run.has(group=group(1, state="waiting", ready_nodes=0))
    run.look()
    changed = {c.type for c in run.status.conditions if times[c.type] != c.last_transition_time}
    assert {ConditionType.RUNNING} == changed


def test_every_decision_is_told_once() -> None:
    run = running()
    assert ["Checking", "DatasetReady", "Starting", "Running"] == told(run)
    run.change(workers={"nodes": 3, "maxNodes": 4})
    run.look()
    assert ["Scaled"] == told(run)
    run.has(pods=(failed_pod(1, 0, 137, word=False), pod(1, 1), coordinator(1)))
    run.look()
    assert "Restart 1 of 10 within 1h." in run.notes[-1].message
    assert ["Killed"] == told(run)
    run.change(suspend=True)
    run.look()
    run.has(jobs=(job(1, is_suspended=True),), pods=(), group=None)
    run.look()
    run.change(suspend=False)
    run.has(jobs=())
    run.look()
    assert ["Suspending", "Suspended", "Resumed"] == told(run)
    for _ in range(3):
        run.wait(20)
        run.look()
    assert [] == told(run)


def test_a_trouble_is_told_when_it_comes_and_not_while_it_lasts() -> None:
    run = started()
    told(run)
    stuck = tuple(pod(1, k, phase="Pending", is_ready=False, node="", unschedulable="0/4 nodes") for k in range(2))
    run.has(pods=(*stuck, coordinator(1)), group=group(1, state="waiting", ready_nodes=0))
    for _ in range(5):
        run.wait(20)
        run.look()
    assert ["Unschedulable"] == told(run)


def test_a_failure_that_is_made_good_degrades_the_run_until_its_next_step() -> None:
    run = running()
    told(run)
    run.wait(100)
    dead = failed_pod(1, 0, 137, word=False, reason="OOMKilled", at_s=run.now_s)
    run.has(pods=(dead, pod(1, 1), coordinator(1)), group=group(1, state="waiting", ready_nodes=0))
    for _ in range(3):
        run.look()
        run.wait(10)
    status, reason, message = run.condition(ConditionType.DEGRADED)
    assert ("True", "HostOutOfMemory") == (status, reason)
    assert message.endswith("; raise workers.resources.memory.")
    assert ["HostOutOfMemory"] == told(run)
    run.has(pods=(dead, pod(1, 0, name="again"), pod(1, 1), coordinator(1)), group=group(1))
    run.look()
    assert (Phase.RUNNING, "True") == (run.status.phase, run.condition(ConditionType.DEGRADED)[0])
    stepped = group(1).progress.model_copy(update={"last_step_unix_s": run.now_s, "step": 101})
    run.has(group=group(1, progress=stepped))
    run.look()
    assert "False" == run.condition(ConditionType.DEGRADED)[0]
    run.has(group=None)
    run.look()
    assert "False" == run.condition(ConditionType.DEGRADED)[0], "what was made good stays so"


def test_a_fresh_attempt_stays_degraded_by_what_ended_the_one_before_until_its_first_step() -> None:
    run = running()
    waits = group(1, state="waiting", ready_nodes=0)
    for count in range(1, MOST_ENDS + 1):
        run.wait(100)
        dead = tuple(
            failed_pod(1, 0, 137, word=False, reason="OOMKilled", at_s=run.now_s - 100 * k) for k in range(count)
        )
        run.has(pods=(*dead, pod(1, 1), coordinator(1)), group=waits)
        run.look()
        assert ("True", "HostOutOfMemory") == run.condition(ConditionType.DEGRADED)[:2]
    assert 1 == run.status.attempts[-1].n
    assert run.status.attempts[-1].finished is not None
    told(run)
    run.has(jobs=(), pods=(), group=None)
    for _ in range(5):
        run.look()
        run.wait(20)
        assert ("True", "HostOutOfMemory") == run.condition(ConditionType.DEGRADED)[:2]
    assert 2 == run.status.attempts[-1].n
    stepped = group(2).progress.model_copy(update={"last_step_unix_s": run.now_s, "step": 101})
    run.has(jobs=(job(2),), pods=(pod(2, 0), pod(2, 1), coordinator(2)), group=group(2, progress=stepped))
    run.look()
    assert "False" == run.condition(ConditionType.DEGRADED)[0]
    assert "HostOutOfMemory" not in told(run)


def test_one_death_is_told_once_also_when_another_trouble_comes_between() -> None:
    run = running()
    told(run)
    run.wait(100)
    dead = failed_pod(1, 0, 137, word=False, at_s=run.now_s)
    run.has(pods=(dead, pod(1, 1), coordinator(1)), group=group(1, state="waiting", ready_nodes=0))
    run.look()
    stuck = pod(1, 0, name="again", phase="Pending", is_ready=False, node="", unschedulable="0/4 nodes are free")
    run.has(pods=(dead, stuck, pod(1, 1), coordinator(1)))
    run.wait(30)
    run.look()
    assert "Unschedulable" == run.condition(ConditionType.DEGRADED)[1]
    run.has(pods=(dead, pod(1, 0, name="again"), pod(1, 1), coordinator(1)))
    run.look()
    assert ["Killed", "Unschedulable"] == told(run)


def test_a_failure_of_an_hour_ago_is_forgotten_whatever_the_clocks_of_nodes_say() -> None:
    run = running()
    run.wait(100)
    dead = failed_pod(1, 0, 137, word=False, at_s=run.now_s)
    run.has(pods=(dead, pod(1, 1), coordinator(1)))
    run.look()
    assert "True" == run.condition(ConditionType.DEGRADED)[0]
    run.wait(3601)
    run.look()
    assert "False" == run.condition(ConditionType.DEGRADED)[0]


def test_a_run_that_trains_with_fewer_nodes_says_what_the_others_wait_for() -> None:
    run = running()
    stuck = pod(1, 1, phase="Pending", is_ready=False, node="", unschedulable="0/4 nodes are free")
    run.has(pods=(pod(1, 0), stuck, coordinator(1)), group=group(1, ready_nodes=1))
    run.wait(20)
    run.look()
    assert (Phase.RUNNING, "True") == (run.status.phase, run.condition(ConditionType.DEGRADED)[0])
    assert "1 of 2 nodes train; Pod" in run.status.summary.message
    assert "0/4 nodes are free" in run.status.summary.message


def test_a_container_that_is_being_created_for_long_names_the_secret_that_may_be_missing() -> None:
    run = Run(spec_of(storage={"secretRef": "blood-s3"}))
    run.look()
    waiting = check_pod(0, phase="Pending", exit_code=None, termination=None, waiting="ContainerCreating", node="n1")
    run.has(jobs=(check_job(),), pods=(waiting,), objects=CHECK_OBJECTS)
    run.wait(27)
    run.look()
    assert "False" == run.condition(ConditionType.DEGRADED)[0]
    run.wait(1)
    run.look()
    assert (Phase.CHECKING, "ContainerCreating") == (run.status.phase, run.condition(ConditionType.DEGRADED)[1])
    assert "Secret blood-s3 does not exist" in run.status.summary.message


def test_a_coordinator_that_is_silent_for_long_degrades_the_run_and_restarts_nothing() -> None:
    run = running()
    before = run.status
    run.has(group=None)
    run.wait(9)
    run.look()
    assert before == run.status
    run.wait(111)
    run.look()
    assert ("Unknown", "False") == tuple(
        run.condition(type_)[0] for type_ in (ConditionType.BACKEND_REACHABLE, ConditionType.DEGRADED)
    )
    for _ in range(20):
        run.wait(15)
        assert () == run.look().actions
    assert ("False", "True") == tuple(
        run.condition(type_)[0] for type_ in (ConditionType.BACKEND_REACHABLE, ConditionType.DEGRADED)
    )
    run.wait(9999)
    run.look()
    assert (Phase.RUNNING, 1, 0) == (run.status.phase, len(run.status.attempts), run.status.restarts)
    run.has(group=group(1))
    run.look()
    assert "True" == run.condition(ConditionType.BACKEND_REACHABLE)[0]


def test_scheduled_follows_the_pods_and_the_queue() -> None:
    run = started(Run(spec_of(queue={"localQueue": "gpu"})))
    run.has(jobs=(job(1, is_suspended=True),), pods=(coordinator(1),), group=group(1, state="waiting", ready_nodes=0))
    run.look()
    assert ("False", "Queued") == run.condition(ConditionType.SCHEDULED)[:2]
    coming = (pod(1, 0, phase="Pending"), pod(1, 1, phase="Pending", node=""))
    run.has(jobs=(job(1),), pods=(*coming, coordinator(1)))
    run.look()
    assert ("Unknown", "1 of 2 pods have a node.") == run.condition(ConditionType.SCHEDULED)[::2]
    make_children(run, 1)
    run.look()
    assert "True" == run.condition(ConditionType.SCHEDULED)[0]
    run.has(jobs=(job(1, is_complete=True),), pods=())
    run.look()
    assert "False" == run.condition(ConditionType.SCHEDULED)[0]


def test_only_running_figures_can_wait_to_be_written() -> None:
    run = running()
    before = run.status
    run.wait(7)
    run.has(group=group(1, step=101))
    run.look()
    assert before != run.status
    assert not is_worth_writing(before, run.status)
    run.has(group=group(1, step=101, commit_step=101))
    run.look()
    assert is_worth_writing(before, run.status)


def test_a_rank_that_loads_again_does_not_set_the_run_back_to_step_0() -> None:
    run = running()
    run.has(group=group(1, step=101))
    run.look()
    before = run.status.progress
    run.wait(7)
    run.has(group=group(1, progress=Progress(state="loading")))
    run.look()

    assert before is not None
    assert (101, before) == (before.step, run.status.progress)


def test_goodput_divides_the_time_by_what_it_was_spent_on() -> None:
    run = Run()
    run.look()
    run.wait(100)
    started(run)
    run.wait(50)
    run.look()
    run.wait(400)
    ended = failed_pod(1, 0, 137, word=False)
    run.has(jobs=(job(1, failure_reason="Odd"),), pods=(ended,), group=group(1, step=100, commit_step=60))
    run.look()
    account = run.status.goodput
    assert {"check": 100.0, "start": 50.0, "lost steps": 40.0} == {k: v for k, v in account.lost_seconds.items() if v}
    assert (360.0, round(360 / 550, 3)) == (account.good_seconds, account.ratio)
    assert 40 == run.status.attempts[-1].lost_steps


def test_what_has_ended_stays_as_it_ended_although_its_spec_is_refused_later() -> None:
    run = running()
    run.has(jobs=(job(1, is_complete=True),), pods=(), group=None)
    run.look()
    run.refusal = "a rule that is new"
    run.look()
    assert (Phase.SUCCEEDED, "False") == (run.status.phase, run.condition(ConditionType.ACCEPTED)[0])
    assert "True" == run.condition(ConditionType.COMPLETE)[0]
    run.refusal = ""
    assert () == run.look().actions
    assert (Phase.SUCCEEDED, 1) == (run.status.phase, len(run.status.attempts))


def test_a_refusal_is_told_once_and_a_run_that_never_started_begins_when_it_is_mended() -> None:
    run = Run(refusal="spec.x: wrong")
    run.look()
    run.wait(100)
    run.look()
    assert ["InvalidSpec"] == told(run)
    run.refusal = ""
    assert (Ensure(Part.PREFLIGHT),) == run.look().actions


WORDS = st.text(max_size=40)
INTS = st.integers(-(10**30), 10**30)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
PROGRESS = st.builds(
    Progress,
    state=st.sampled_from(["training", "loading", "\x1b[2J"]),
    step=INTS, total_steps=INTS, epoch=st.floats(allow_nan=False, allow_infinity=False), eta_s=FLOATS, loss=FLOATS,
    images_per_s=FLOATS, best_metric=st.none() | WORDS, best_value=FLOATS, best_step=st.none() | INTS,
    last_step_unix_s=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
TERMINATION = st.builds(
    Termination,
    code=st.integers(0, 255), reason=WORDS, message=WORDS, node=WORDS, rank=st.none() | INTS, traceback=WORDS,
    step=INTS, checkpoint_step=st.none() | INTS, dataset=st.none(),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    progress=PROGRESS,
    termination=st.none() | TERMINATION,
    fields=st.fixed_dictionaries(
        {
            "exit_code": st.none() | st.integers(-(2**31), 2**31), "reason": WORDS, "waiting": WORDS,
            "node": WORDS, "finished_s": st.none() | st.floats(0, 4e9),
        }
    ),
    commit=st.none() | INTS,
    rank=st.none() | st.integers(0, 100),
    code=st.sampled_from([1, 11, 21, 22, 24]),
    has_verdict=st.booleans(),
)  # fmt: skip
def test_whatever_pods_and_coordinators_say_makes_a_status_that_can_be_written(
    progress: Progress,
    termination: Termination | None,
    fields: dict[str, Any],
    commit: int | None,
    rank: int | None,
    code: int,
    has_verdict: bool,  # noqa: FBT001 - drawn
) -> None:
    run = started()
    ended = pod(1, 0, phase="Failed", termination=termination, **fields)
    verdict = Verdict(code=code, message="\u202ex", rank=rank, step=5) if has_verdict else None
    said = group(1, progress=progress, commit_step=commit, verdict=verdict)
    run.has(pods=(ended, pod(1, 1), coordinator(1)), group=said)

    for _ in range(3):
        run.look()  # which writes the status as JSON and reads it back by the model
        run.wait(70)
    text = run.status.model_dump_json()
    assert "\\u202e" not in text
    assert "\u202e" not in text
    assert "\\u001b" not in text


@pytest.mark.parametrize("code", [0, 11])
def test_a_check_that_tells_nonsense_harms_nothing(code: int) -> None:
    run = Run()
    run.look()
    word = Termination(code=code, reason="\x1b", message="\u202e" * 900, node="n" * 900, rank=-1, step=-5)
    run.has(jobs=(check_job(),), pods=(check_pod(code, termination=word),), objects=CHECK_OBJECTS)

    run.look()
    assert START_S == run.now_s
    assert "\u202e" not in run.status.model_dump_json()
