"""What follows from what a user wants: size, pause, deadline, another try, cleaning up."""

from decide_bench import (
    OBJECTS,
    RUN,
    START_S,
    Run,
    check_job,
    check_pod,
    checked,
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

from sam3ft_api import names
from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decision import Admit, Delete, Ensure, Part, Pause, Resize


def test_scaling_resizes_the_job_both_ways() -> None:
    run = running()
    run.change(workers={"nodes": 3, "maxNodes": 4})
    assert (Resize(names.worker_job_name(RUN, 1), 3),) == run.look().actions
    run.change(workers={"nodes": 1, "maxNodes": 4})
    assert (Resize(names.worker_job_name(RUN, 1), 1),) == run.look().actions
    run.has(jobs=(job(1, parallelism=1, completions=1),))
    assert () == run.look().actions


def test_a_run_that_waits_in_a_queue_can_be_made_smaller() -> None:
    run = started(Run(spec_of(queue={"localQueue": "gpu"})))
    run.has(jobs=(job(1, is_suspended=True),), pods=(coordinator(1),), group=group(1, state="waiting", ready_nodes=0))
    run.change(workers={"nodes": 1, "maxNodes": 4})

    assert (Resize(names.worker_job_name(RUN, 1), 1),) == run.look().actions


def test_suspending_saves_closes_the_attempt_and_going_on_is_the_next_one() -> None:
    run = running()
    run.change(suspend=True)
    assert (Pause(names.worker_job_name(RUN, 1), suspend=True),) == run.look().actions
    assert Phase.CHECKPOINTING is run.status.phase
    run.has(jobs=(job(1, is_suspended=True),), pods=(pod(1, 0, deletion_s=START_S + 100), coordinator(1)))
    assert () == run.look().actions
    run.has(pods=(coordinator(1),), group=None)
    decision = run.look()
    assert (Phase.SUSPENDED, "Suspended", "") == (
        run.status.phase,
        run.status.attempts[-1].reason,
        run.status.summary.nodes,
    )
    assert 2 == len(decision.actions)
    run.has(jobs=(), pods=())
    run.change(suspend=False)
    assert Ensure(Part.WORKERS, 2, nodes=2) in run.look().actions


def test_a_pause_that_is_taken_back_half_way_is_finished_and_the_run_goes_on() -> None:
    run = running()
    run.change(suspend=True)
    run.look()
    run.change(suspend=False)
    run.has(jobs=(job(1, is_suspended=True),), pods=(pod(1, 0, deletion_s=START_S + 100), coordinator(1)))
    run.look()
    assert Phase.CHECKPOINTING is run.status.phase
    run.has(jobs=(job(1, is_suspended=True),), pods=(), group=None)
    run.look()
    assert ("Suspended", Phase.RESTARTING) == (run.status.attempts[-1].reason, run.status.phase)
    run.has(jobs=())
    assert Ensure(Part.WORKERS, 2, nodes=2) in run.look().actions


def test_with_kueue_the_workload_is_what_is_paused() -> None:
    run = started(Run(spec_of(queue={"localQueue": "gpu"})))
    run.has(jobs=(job(1, is_suspended=True),), pods=(coordinator(1),), group=group(1, state="waiting", ready_nodes=0))
    run.look()
    assert Phase.QUEUED is run.status.phase
    make_children(run, 1)
    run.look()
    run.change(suspend=True)
    assert (Admit(names.worker_job_name(RUN, 1), "job-1", is_active=False),) == run.look().actions
    run.change(suspend=False, activeDeadlineSeconds=60)
    run.wait(100)
    assert Admit(names.worker_job_name(RUN, 1), "job-1", is_active=False) in run.look().actions
    assert Phase.CHECKPOINTING is run.status.phase


def test_a_run_that_kueue_has_taken_off_its_nodes_waits_in_the_queue_and_is_not_paused() -> None:
    run = running(spec_of(queue={"localQueue": "gpu"}))
    leaving = tuple(pod(1, index, deletion_s=START_S + 60) for index in range(2))
    run.has(jobs=(job(1, is_suspended=True),), pods=(*leaving, coordinator(1)))
    run.look()
    assert (Phase.CHECKPOINTING, "Evicted") == (run.status.phase, run.condition(ConditionType.RUNNING)[1])
    run.has(pods=(coordinator(1),), group=group(1, state="waiting", ready_nodes=0))

    assert () == run.look().actions
    assert (Phase.QUEUED, 1) == (run.status.phase, run.status.attempts[-1].n)
    assert None is run.status.attempts[-1].finished


def test_a_run_that_is_too_old_is_asked_to_save_and_is_over() -> None:
    run = running()
    run.change(activeDeadlineSeconds=600)
    run.wait(599)
    run.look()
    assert Phase.RUNNING is run.status.phase
    run.wait(2)
    decision = run.look()
    assert (Phase.CHECKPOINTING, "DeadlineExceeded") == (run.status.phase, run.condition(ConditionType.RUNNING)[1])
    assert (Pause(names.worker_job_name(RUN, 1), suspend=True),) == decision.actions
    run.has(jobs=(job(1, is_suspended=True),), pods=(coordinator(1),), group=group(1, commit_step=100, step=100))
    run.look()
    assert (Phase.FAILED, "DeadlineExceeded") == (run.status.phase, run.condition(ConditionType.FAILED)[1])
    assert (0, 100) == (run.status.attempts[-1].lost_steps, run.status.checkpoint.step)


def test_a_deadline_is_looked_at_when_it_is_due_also_while_nothing_else_is() -> None:
    run = running()
    run.change(suspend=True, activeDeadlineSeconds=600)
    run.has(jobs=(job(1, is_suspended=True),), pods=(), group=None)
    decision = run.look()
    assert (Phase.SUSPENDED, 600) == (run.status.phase, decision.requeue_s)
    run.has(jobs=())
    run.wait(600)

    assert Phase.FAILED is run.look().status.phase


def test_what_has_ended_stays_ended_until_retry_and_then_goes_on() -> None:
    run = running()
    run.has(pods=(failed_pod(1, 0, 14), coordinator(1)))
    run.look()
    run.has(jobs=(), pods=(), group=None)
    for _ in range(3):
        run.wait(1000)
        assert () == run.look().actions
        assert Phase.FAILED is run.status.phase
    run.change(retry=1)
    assert (Ensure(Part.PREFLIGHT),) == run.look().actions
    assert "Unknown" == run.condition(ConditionType.DATASET_READY)[0]
    checked(run)
    run.look()
    assert (2, 1, 0) == (run.status.attempts[-1].n, run.status.retried, run.status.restarts)
    assert "False" == run.condition(ConditionType.FAILED)[0]


def test_retry_checks_again_and_believes_no_older_check() -> None:
    run = running()
    run.has(pods=(failed_pod(1, 0, 11), coordinator(1)))
    run.look()
    run.wait(100)
    run.change(retry=1)
    run.has(jobs=(check_job(is_complete=True),), pods=(check_pod(0),), group=None)

    assert (Delete("Job", names.preflight_name(RUN), "check-1"),) == run.look().actions
    run.has(jobs=(), pods=(check_pod(11),))
    assert (Ensure(Part.PREFLIGHT),) == run.look().actions
    run.has(jobs=(check_job(created_s=run.now_s, uid="check-2"),))
    run.look()
    assert Phase.CHECKING is run.status.phase


def test_retry_that_was_raised_before_a_failure_does_nothing() -> None:
    run = running(spec_of(retry=3))
    run.has(pods=(failed_pod(1, 0, 14), coordinator(1)))
    run.look()
    assert (Phase.FAILED, 3) == (run.status.phase, run.status.retried)


def test_children_go_when_their_time_has_come_and_the_resource_stays() -> None:
    run = running()
    run.change(ttlSecondsAfterFinished=100)
    run.has(jobs=(job(1, is_complete=True),), pods=(), group=None)
    decision = run.look()
    assert ((), 100) == (decision.actions, decision.requeue_s)
    run.wait(101)
    deleted = {(action.kind, action.name) for action in run.look().actions}
    assert {
        ("Job", names.worker_job_name(RUN, 1)),
        ("Secret", names.token_name(RUN)),
        *OBJECTS,
    } == deleted
    run.has(jobs=(), objects=frozenset())
    assert () == run.look().actions
