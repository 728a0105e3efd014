"""What follows from nodes, coordinators and groups that fall silent, and from hands that change things."""

from typing import Any

import pytest
from decide_bench import (
    OBJECTS,
    START_S,
    Run,
    coordinator,
    failed_pod,
    group,
    job,
    make_children,
    pod,
    running,
    spec_of,
)

from sam3ft_api.status import Phase
from sam3ft_operator.decision import Delete, Ensure, FailPod, Part


def test_a_job_that_was_deleted_by_hand_is_made_again_as_the_same_attempt() -> None:
    run = running()
    run.has(jobs=(), pods=(pod(1, 0, deletion_s=START_S + 60), coordinator(1)))
    assert () == run.look().actions  # one of its pods still saves
    run.has(pods=(coordinator(1),), group=group(1, state="waiting", ready_nodes=0))

    assert (Ensure(Part.WORKERS, 1, nodes=2),) == run.look().actions
    run.has(jobs=(job(1),), pods=())
    assert (Ensure(Part.GROUP, 1),) == run.look().actions


@pytest.mark.parametrize("missing", sorted(OBJECTS))
def test_what_was_deleted_by_hand_is_made_again(missing: tuple[str, str]) -> None:
    run = running()
    run.has(objects=OBJECTS - {missing})

    part = Ensure(Part.PREFLIGHT) if missing[0] == "ConfigMap" else Ensure(Part.GROUP, 1)
    assert (part,) == run.look().actions


def test_a_coordinator_that_ended_is_replaced_and_nobody_else_notices() -> None:
    run = running()
    run.has(pods=(pod(1, 0), pod(1, 1), coordinator(1, phase="Failed")), group=None)

    assert (Delete("Pod", "coordinator", "coordinator-uid"),) == run.look().actions
    assert Phase.RUNNING is run.status.phase
    run.has(pods=(pod(1, 0), pod(1, 1)))
    assert (Ensure(Part.GROUP, 1),) == run.look().actions


def test_a_pod_on_a_dead_node_is_written_off_whatever_the_run_does() -> None:
    lost = pod(1, 0, is_node_lost=True, deletion_s=START_S + 130)
    written_off = FailPod(lost.name, lost.uid, "node node-0 does not answer")
    run = running()
    run.has(pods=(lost, pod(1, 1), coordinator(1)))
    assert (written_off,) == run.look().actions
    run.change(suspend=True)
    run.has(jobs=(job(1, is_suspended=True),))
    assert (written_off,) == run.look().actions

    run = running()
    run.has(jobs=(job(1, failure_reason="Odd"),), pods=(lost,), group=None)
    assert written_off in run.look().actions
    assert Phase.RESTARTING is run.status.phase

    run = running()
    run.has(pods=(failed_pod(1, 1, 11), lost), group=None)
    assert written_off in run.look().actions
    assert Phase.FAILED is run.status.phase


def test_a_pod_long_after_its_grace_is_written_off_although_nobody_calls_its_node_lost() -> None:
    run = running()
    late = pod(1, 0, deletion_s=START_S)
    run.has(pods=(late, pod(1, 1), coordinator(1)))
    run.wait(120)
    assert () == run.look().actions
    run.wait(1)

    assert (FailPod(late.name, late.uid, "node node-0 does not answer"),) == run.look().actions


def test_a_coordinator_on_a_dead_node_is_deleted_by_force_so_that_its_successor_can_have_its_name() -> None:
    run = running()
    lost = coordinator(1, is_node_lost=True, deletion_s=START_S + 30)
    run.has(pods=(pod(1, 0), pod(1, 1), lost), group=None)

    assert (Delete("Pod", lost.name, lost.uid, is_forced=True),) == run.look().actions
    assert Phase.RUNNING is run.status.phase


def silent(run: Run, seconds: float, **told: Any) -> Phase | None:
    """Let time pass in which no step finishes, and say what follows."""
    run.wait(seconds)
    seen = group(1, read_s=run.now_s)
    progress = seen.progress.model_copy(update={"last_step_unix_s": START_S, **told})
    run.has(group=group(1, read_s=run.now_s, progress=progress))
    run.look()
    return run.status.phase


def test_a_run_without_a_step_for_too_long_gets_a_fresh_attempt() -> None:
    run = running()
    assert Phase.RUNNING is silent(run, 2250)
    assert Phase.RESTARTING is silent(run, 1)
    assert ("Hung", 1, 1) == (run.status.attempts[-1].reason, run.status.restarts, run.status.attempts[-1].counted)


def test_slow_steps_a_patient_watchdog_and_other_work_are_no_stall() -> None:
    assert Phase.RUNNING is silent(running(), 2251, images_per_s=1.0)
    patient = spec_of(training={"globalBatchSize": 64, "config": {"runtime": {"watchdog_s": 4000}}})
    assert Phase.RUNNING is silent(running(patient), 4900)
    assert Phase.RUNNING is silent(running(), 9999, state="evaluating")
    assert Phase.RUNNING is silent(running(), 9999, last_step_unix_s=None)


def test_a_node_with_a_wrong_clock_does_not_make_a_run_stall() -> None:
    run = running()
    for step in range(101, 110):
        assert Phase.RUNNING is silent(run, 600, step=step)


def test_a_pause_is_no_stall() -> None:
    run = running()
    run.change(suspend=True)
    run.has(jobs=(job(1, is_suspended=True),), pods=(), group=None)
    run.look()
    run.wait(9999)
    run.change(suspend=False)
    run.has(jobs=())
    run.look()
    make_children(run, 2)
    first = group(2, read_s=run.now_s)
    run.has(group=group(2, read_s=run.now_s, progress=first.progress.model_copy(update={"last_step_unix_s": None})))
    run.look()
    assert Phase.RUNNING is run.status.phase
