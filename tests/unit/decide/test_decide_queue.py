"""Runs that Kueue admits, preempts, or has taken into a queue that nobody asked for."""

from dataclasses import replace

from decide_bench import RUN, Run, coordinator, failed_pod, group, job, make_children, pod, running, spec_of, started

from sam3ft_api import names
from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decide.suspend import SUSPENDED
from sam3ft_operator.decision import Admit, Ensure, Part

JOB = names.worker_job_name(RUN, 1)
QUEUED = {"localQueue": "gpu"}


def taken() -> Run:
    """Return a run without a queue whose Job the namespace's own queue has taken."""
    run = started()
    run.has(jobs=(job(1, is_suspended=True, queue="default"),), pods=(coordinator(1),), group=None)
    run.look()
    return run


def test_a_run_without_a_queue_waits_in_the_queue_that_its_namespace_has_put_it_into() -> None:
    run = taken()
    assert Phase.QUEUED is run.status.phase
    assert ("False", "Queued") == run.condition(ConditionType.SCHEDULED)[:2]
    assert "LocalQueue default" in run.condition(ConditionType.SCHEDULED)[2]
    assert [None] == [attempt.finished for attempt in run.status.attempts]
    make_children(run, 1)
    run.look()
    assert (Phase.RUNNING, 1) == (run.status.phase, len(run.status.attempts))


def test_a_run_that_was_put_into_a_queue_is_paused_by_its_workload() -> None:
    run = taken()
    make_children(run, 1)
    run.has(jobs=(replace(run.children.jobs[0], queue="default"),))
    run.change(suspend=True)

    assert (Admit(JOB, "job-1", is_active=False),) == run.look().actions


def test_what_kueue_says_is_told() -> None:
    run = started(Run(spec_of(queue=QUEUED)))
    words = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor a, 2 more"
    run.has(jobs=(job(1, is_suspended=True, queue="gpu", trouble=words + "."),), pods=(coordinator(1),), group=None)
    run.look()

    message = run.condition(ConditionType.SCHEDULED)[2]
    assert message.endswith(f"LocalQueue gpu: {words}; free quota, or lower workers.nodes.")
    assert run.status.summary.message == message
    assert "False" == run.condition(ConditionType.DEGRADED)[0]


def test_workers_that_a_preemption_has_ended_have_not_failed() -> None:
    run = running(spec_of(queue=QUEUED))
    for preemption in range(6):
        ended = [failed_pod(1, index, 20, name=f"{preemption}-{index}", deletion_s=run.now_s) for index in range(2)]
        run.has(jobs=(job(1, is_suspended=True),), pods=(*ended, coordinator(1)), group=None)
        run.look()
        assert Phase.QUEUED is run.status.phase
        run.has(jobs=(job(1),), pods=(pod(1, 0), pod(1, 1), coordinator(1)), group=group(1))
        run.look()
        run.wait(100)

    assert Phase.RUNNING is run.status.phase
    assert [(0, 0)] == [(attempt.ends, attempt.counted) for attempt in run.status.attempts]
    assert 0 == run.status.budget.without_progress


def test_a_worker_that_came_to_a_verdict_while_it_was_preempted_ends_the_run() -> None:
    run = running(spec_of(queue=QUEUED))
    ended = failed_pod(1, 0, 14, deletion_s=run.now_s)
    run.has(jobs=(job(1, is_suspended=True),), pods=(ended, coordinator(1)), group=None)
    run.look()

    assert Phase.FAILED is run.status.phase


def test_a_run_that_is_suspended_while_it_waits_leaves_the_queue() -> None:
    run = started(Run(spec_of(queue=QUEUED)))
    run.has(jobs=(job(1, is_suspended=True, queue="gpu"),), pods=(coordinator(1),), group=None)
    run.look()
    run.change(suspend=True)
    decision = run.look()
    assert Phase.SUSPENDED is run.status.phase
    assert {"Job", "Pod"} == {action.kind for action in decision.actions}
    run.has(jobs=(), pods=())
    run.change(suspend=False)
    assert Ensure(Part.WORKERS, 2, nodes=2) in run.look().actions


def test_a_wish_to_pause_that_is_taken_back_before_kueue_shows_it_is_finished() -> None:
    run = running(spec_of(queue=QUEUED))
    run.change(suspend=True)
    assert (Admit(JOB, "job-1", is_active=False),) == run.look().actions
    run.change(suspend=False)
    run.look()  # the Job looks as before: the watch lags, or Kueue has not got to it
    assert Phase.CHECKPOINTING is run.status.phase

    run.has(jobs=(job(1, is_suspended=True),), pods=(coordinator(1),), group=None)
    run.look()
    assert SUSPENDED == run.status.attempts[0].reason
    run.has(jobs=(), pods=())
    assert Ensure(Part.WORKERS, 2, nodes=2) in run.look().actions
