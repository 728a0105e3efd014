"""What follows from one look after the other: the main path, and everything that leaves it."""

import pytest
from decide_bench import (
    RUN,
    START_S,
    Run,
    checked,
    coordinator,
    failed_pod,
    group,
    job,
    make_children,
    pod,
    spec_of,
    started,
)

from sam3ft_api import names
from sam3ft_api.messages import Verdict
from sam3ft_api.status import ConditionType, Phase
from sam3ft_api.termination import Termination
from sam3ft_operator.decision import Admit, Delete, Ensure, FailPod, Part, Pause, Resize
from sam3ft_operator.observed import Children, JobView, PodView


def running() -> Run:
    run = started()
    run.settle()
    assert Phase.RUNNING is run.status.phase
    return run


def test_the_main_path_checks_starts_runs_and_succeeds() -> None:
    run = Run(spec_of(export={"uri": "s3://m/x"}))
    assert (Ensure(Part.PREFLIGHT),) == run.look().actions
    assert Phase.CHECKING is run.status.phase
    started(run)
    assert () == run.settle().actions
    assert (Phase.RUNNING, "2/2", "100/400", "10m", "1.25", "0.500") == (
        run.status.phase, run.status.summary.nodes, run.status.summary.step, run.status.summary.eta,
        run.status.summary.loss, run.status.summary.ap,
    )  # fmt: skip
    assert (9, 80, 2) == (run.status.dataset.images, run.status.checkpoint.step, run.status.replicas)
    run.wait(400)
    run.has(jobs=(job(1, succeeded=2, is_complete=True),), pods=(pod(1, 0, phase="Succeeded"), coordinator(1)))
    decision = run.settle()
    assert (Phase.SUCCEEDED, "s3://m/x", 0) == (
        run.status.phase,
        run.status.export.uri,
        run.status.attempts[0].exit_code,
    )
    assert (Delete("Pod", "coordinator", "coordinator-uid"),) == decision.actions
    assert "True" == run.condition(ConditionType.COMPLETE)[0] == run.condition(ConditionType.READY)[0]
    assert ["Checking", "DatasetReady", "Starting", "Succeeded"] == [note.reason for note in run.notes]


def test_an_attempt_is_opened_in_the_status_before_anything_of_it_is_made() -> None:
    run = checked(Run())

    first = run.look()
    assert ((), 1) == (first.actions, first.status.attempts[0].n)
    assert Ensure(Part.WORKERS, 1, nodes=2) in run.look().actions


@pytest.mark.parametrize("code", [10, 11, 12, 13, 14, 15, 16, 1, 24])
def test_a_verdict_with_a_last_word_ends_the_run_with_what_it_said(code: int) -> None:
    run = running()
    run.has(pods=(failed_pod(1, 0, code), pod(1, 1), coordinator(1)))

    decision = run.settle()
    assert Phase.FAILED is run.status.phase
    attempt = run.status.attempts[-1]
    assert (code, 0, 10) == (attempt.exit_code, attempt.first_failure.rank, attempt.lost_steps)
    assert f"it said {code}" in run.status.summary.message
    assert "True" == run.condition(ConditionType.STALLED)[0]
    assert (Pause(names.worker_job_name(RUN, 1), suspend=True),) == decision.actions


def test_the_coordinators_verdict_and_the_jobs_own_words_end_a_run_too() -> None:
    run = running()
    run.has(group=group(1, state="failed", verdict=Verdict(code=12, message="no weights", node="n", rank=3)))
    run.settle()
    assert (Phase.FAILED, 12, 3) == (
        run.status.phase, run.status.attempts[-1].exit_code, run.status.attempts[-1].first_failure.rank
    )  # fmt: skip

    run = running()
    message = "Container worker for pod ns/cells-1-0-x failed with exit code 11 matching FailJob rule at index 2"
    run.has(jobs=(job(1, failure_reason="PodFailurePolicy", failure_message=message),), pods=(), group=None)
    run.settle()
    assert (Phase.FAILED, 11) == (run.status.phase, run.status.attempts[-1].exit_code)


@pytest.mark.parametrize(
    ("fields", "code", "counted"),
    [
        ({}, 20, 0),
        ({}, 21, 0),
        ({}, 22, 0),
        ({"is_disrupted": True, "word": False}, 137, 0),
        ({"is_disrupted": True, "word": False}, 143, 0),
        ({"word": False}, 143, 0),
        ({}, 23, 0),
        ({"word": False}, 137, 1),
        ({"word": False, "reason": "OOMKilled"}, 137, 1),
        ({"word": False, "reason": "OOMKilled"}, 1, 1),
        ({"word": False}, 1, 1),
        ({"word": False}, 99, 1),
    ],
)
def test_other_ends_are_made_good_by_the_job_and_weigh_what_the_table_says(
    fields: dict[str, object], code: int, counted: int
) -> None:
    run = running()
    run.has(pods=(failed_pod(1, 0, code, **fields), pod(1, 1), coordinator(1)))

    for _ in range(3):
        run.settle()
    assert (Phase.RUNNING, counted, 1) == (run.status.phase, run.status.restarts, run.status.attempts[-1].ends)


def test_memory_of_the_host_is_named() -> None:
    run = running()
    run.change(failurePolicy={"maxRestarts": 0})
    run.has(pods=(failed_pod(1, 0, 1, word=False, reason="OOMKilled"), pod(1, 1), coordinator(1)))

    run.settle()
    assert Phase.FAILED is run.status.phase
    assert "workers.resources.memory" in run.status.summary.message
    assert "HostOutOfMemory" == run.status.attempts[-1].reason


def test_the_budget_counts_within_its_window_over_attempts() -> None:
    run = running()
    run.change(failurePolicy={"maxRestarts": 5, "windowSeconds": 600, "maxWithoutProgress": 100})
    for attempt in (1, 2):
        for count in range(1, 5):
            pods = tuple(failed_pod(attempt, 0, 137, word=False, at_s=run.now_s + k) for k in range(count))
            run.has(pods=(*pods, pod(attempt, 1), coordinator(attempt)))
            run.wait(10)
            run.settle(looks=20)
            if run.status.phase is Phase.FAILED or run.status.attempts[-1].n != attempt:
                break
        if run.status.phase is Phase.FAILED:
            break
        run.has(jobs=(), pods=(), group=None)
        run.wait(60)
        run.settle()
        assert attempt + 1 == run.status.attempts[-1].n
        make_children(run, attempt + 1)
        run.settle()
    assert (Phase.FAILED, 6) == (run.status.phase, run.status.restarts)
    assert "6 failures within 600 s; failurePolicy.maxRestarts is 5" in run.status.summary.message


def test_ends_without_a_newer_commit_end_the_run_and_a_commit_forgives_them() -> None:
    run = running()
    run.change(failurePolicy={"maxWithoutProgress": 3})
    ended = tuple(failed_pod(1, 0, 143, word=False, is_disrupted=True, at_s=START_S + k) for k in range(3))
    run.has(pods=(*ended[:2], pod(1, 1), coordinator(1)))
    run.settle()
    assert 2 == run.status.budget.without_progress
    run.has(group=group(1, commit_step=120))
    run.settle()
    assert 0 == run.status.budget.without_progress
    run.has(pods=(*ended, pod(1, 1), coordinator(1)))
    run.settle()
    assert (Phase.RUNNING, 1) == (run.status.phase, run.status.budget.without_progress)


def test_the_fourth_end_rolls_to_a_fresh_attempt_before_the_job_controllers_pause() -> None:
    run = running()
    ended = tuple(failed_pod(1, 0, 143, word=False, is_disrupted=True, at_s=START_S + k) for k in range(4))
    run.has(pods=(*ended, pod(1, 1), coordinator(1)))

    decision = run.settle()
    assert (Phase.RESTARTING, 1) == (run.status.phase, len(run.status.attempts))
    assert {
        Delete("Job", names.worker_job_name(RUN, 1), "job-1"),
        Delete("Pod", "coordinator", "coordinator-uid"),
    } == set(decision.actions)
    run.has(jobs=(), pods=(pod(1, 1, deletion_s=START_S + 30),))
    assert () == run.settle().actions  # one of its pods still saves
    run.has(pods=())
    run.wait(60)
    decision = run.settle()
    assert [1, 2] == [attempt.n for attempt in run.status.attempts]
    assert Ensure(Part.WORKERS, 2, nodes=2) in decision.actions


def test_a_job_that_was_deleted_by_hand_is_made_again_as_the_same_attempt() -> None:
    run = running()
    run.has(jobs=(), pods=(coordinator(1),), group=group(1, state="waiting", ready_nodes=0))

    assert (Ensure(Part.WORKERS, 1, nodes=2),) == run.settle().actions
    run.has(jobs=(job(1),), pods=())
    assert (Ensure(Part.GROUP, 1),) == run.settle().actions


def test_a_coordinator_that_ended_is_replaced_and_nobody_else_notices() -> None:
    run = running()
    run.has(pods=(pod(1, 0), pod(1, 1), coordinator(1, phase="Failed")), group=None)

    assert (Delete("Pod", "coordinator", "coordinator-uid"),) == run.settle().actions
    assert Phase.RUNNING is run.status.phase
    assert "Unknown" == run.condition(ConditionType.BACKEND_REACHABLE)[0]
    run.has(pods=(pod(1, 0), pod(1, 1)))
    assert (Ensure(Part.GROUP, 1),) == run.settle().actions


def test_scaling_resizes_the_job_both_ways() -> None:
    run = running()
    run.change(workers={"nodes": 3, "maxNodes": 4})
    assert (Resize(names.worker_job_name(RUN, 1), 3),) == run.settle().actions
    run.change(workers={"nodes": 1, "maxNodes": 4})
    assert (Resize(names.worker_job_name(RUN, 1), 1),) == run.settle().actions
    run.has(jobs=(job(1, parallelism=1, completions=1),))
    assert () == run.settle().actions


def test_suspending_saves_closes_the_attempt_and_going_on_is_the_next_one() -> None:
    run = running()
    run.change(suspend=True)
    assert (Pause(names.worker_job_name(RUN, 1), suspend=True),) == run.settle().actions
    assert Phase.CHECKPOINTING is run.status.phase
    run.has(jobs=(job(1, is_suspended=True),), pods=(pod(1, 0, deletion_s=START_S + 100), coordinator(1)))
    assert () == run.settle().actions
    run.has(pods=(coordinator(1),), group=None)
    decision = run.settle()
    assert (Phase.SUSPENDED, "Suspended", "") == (
        run.status.phase,
        run.status.attempts[-1].reason,
        run.status.summary.nodes,
    )
    assert 2 == len(decision.actions)
    run.has(jobs=(), pods=())
    run.change(suspend=False)
    assert Ensure(Part.WORKERS, 2, nodes=2) in run.settle().actions


def test_a_pause_that_is_taken_back_half_way_is_finished_and_the_run_goes_on() -> None:
    run = running()
    run.change(suspend=True)
    run.settle()
    run.change(suspend=False)
    run.has(jobs=(job(1, is_suspended=True),), pods=(pod(1, 0, deletion_s=START_S + 100), coordinator(1)))
    run.settle()
    assert Phase.CHECKPOINTING is run.status.phase
    run.has(jobs=(job(1, is_suspended=True),), pods=(), group=None)
    run.settle()
    assert ("Suspended", Phase.RESTARTING) == (run.status.attempts[-1].reason, run.status.phase)
    run.has(jobs=())
    assert Ensure(Part.WORKERS, 2, nodes=2) in run.settle().actions


def test_with_kueue_the_workload_is_what_is_paused() -> None:
    run = started(Run(spec_of(queue={"localQueue": "gpu"})))
    run.has(jobs=(job(1, is_suspended=True),), pods=(coordinator(1),), group=group(1, state="waiting", ready_nodes=0))
    run.settle()
    assert Phase.QUEUED is run.status.phase
    make_children(run, 1)
    run.settle()
    run.change(suspend=True)
    assert (Admit(names.worker_job_name(RUN, 1), "job-1", is_active=False),) == run.settle().actions
    run.change(suspend=False, activeDeadlineSeconds=60)
    run.wait(100)
    assert Admit(names.worker_job_name(RUN, 1), "job-1", is_active=False) in run.settle().actions
    assert Phase.FAILED is run.status.phase


def test_a_run_that_is_too_old_is_asked_to_save_and_is_over() -> None:
    run = running()
    run.change(activeDeadlineSeconds=600)
    run.wait(599)
    run.settle()
    assert Phase.RUNNING is run.status.phase
    run.wait(2)
    decision = run.settle()
    assert (Phase.FAILED, "DeadlineExceeded") == (run.status.phase, run.condition(ConditionType.FAILED)[1])
    assert (Pause(names.worker_job_name(RUN, 1), suspend=True),) == decision.actions


def test_what_has_ended_stays_ended_until_retry_and_then_goes_on() -> None:
    run = running()
    run.has(pods=(failed_pod(1, 0, 14), coordinator(1)))
    run.settle()
    run.has(jobs=(), pods=(), group=None)
    for _ in range(3):
        run.wait(1000)
        assert () == run.settle().actions
        assert Phase.FAILED is run.status.phase
    run.change(retry=1)
    run.settle()
    assert (2, 1, 0) == (run.status.attempts[-1].n, run.status.retried, run.status.restarts)
    assert "False" == run.condition(ConditionType.FAILED)[0]


def test_children_go_when_their_time_has_come_and_the_resource_stays() -> None:
    run = running()
    run.change(ttlSecondsAfterFinished=100)
    run.has(jobs=(job(1, is_complete=True),), pods=(), group=None)
    decision = run.settle()
    assert ((), 100) == (decision.actions, decision.requeue_s)
    run.wait(101)
    deleted = {(action.kind, action.name) for action in run.settle().actions}
    assert {
        ("Job", names.worker_job_name(RUN, 1)),
        ("Service", names.coordinator_name(RUN)),
        ("Secret", names.token_name(RUN)),
    } == deleted
    run.has(jobs=(), objects=frozenset())
    assert () == run.settle().actions


def test_a_pod_on_a_dead_node_is_written_off_once_it_should_be_gone() -> None:
    run = running()
    lost = pod(1, 0, is_node_lost=True, deletion_s=START_S + 30)
    run.has(pods=(lost, pod(1, 1), coordinator(1)))
    assert () == run.settle().actions
    run.wait(31)
    assert (FailPod(lost.name, lost.uid, "node node-0 does not answer"),) == run.settle().actions


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"waiting": "ImagePullBackOff", "waiting_message": "no manifest"}, "ImagePullBackOff", "no manifest"),
        ({"unschedulable": "0/4 nodes: 4 Insufficient nvidia.com/gpu", "node": ""}, "Unschedulable", "nvidia.com/gpu"),
        ({"waiting": "CreateContainerConfigError", "waiting_message": 'secret "s3" not found'},
         "CreateContainerConfigError", "create the Secret"),
    ],
)  # fmt: skip
def test_what_keeps_pods_from_starting_is_said_with_what_to_do(fields: dict[str, str], reason: str, said: str) -> None:
    run = started()
    pods = tuple(pod(1, index, phase="Pending", is_ready=False, **fields) for index in range(2))
    run.has(pods=(*pods, coordinator(1)), group=group(1, state="waiting", ready_nodes=0))
    run.wait(11)

    decision = run.settle()
    assert (Phase.STARTING, "False", reason) == (run.status.phase, *run.condition(ConditionType.SCHEDULED)[:2])
    assert said in run.status.summary.message
    assert decision.requeue_s is not None
    assert decision.requeue_s <= 60


def test_a_quota_is_said() -> None:
    run = started()
    run.has(
        jobs=(job(1, trouble="exceeded quota: gpus, requested: 8, used: 8, limited: 8"),),
        pods=(coordinator(1),),
        group=None,
    )
    run.settle()
    assert "QuotaExceeded" == run.condition(ConditionType.DEGRADED)[1]


def test_a_run_without_a_step_for_too_long_gets_a_fresh_attempt() -> None:
    run = running()
    run.wait(1700)
    run.has(group=group(1, read_s=run.now_s))
    run.settle()
    assert Phase.RUNNING is run.status.phase
    run.wait(200)
    run.has(group=group(1, read_s=run.now_s))
    run.settle()
    assert (Phase.RESTARTING, "Hung", 1) == (run.status.phase, run.status.attempts[-1].reason, run.status.restarts)


def test_the_check_refuses_with_its_words_or_is_made_again() -> None:
    run = Run()
    run.look()
    word = Termination(code=11, reason="InvalidDataset", message="train has no images")
    check = JobView(names.preflight_name(RUN), "check-1", names.ROLE_PREFLIGHT, created_s=START_S)
    said = PodView("check", "c", names.ROLE_PREFLIGHT, phase="Failed", exit_code=11, termination=word)
    run.has(jobs=(check,), pods=(said,))
    run.settle()
    assert (Phase.FAILED, "InvalidDataset") == (run.status.phase, run.condition(ConditionType.DATASET_READY)[1])
    assert "train has no images" in run.status.summary.message

    run = Run()
    run.look()
    over = JobView(
        check.name,
        check.uid,
        check.role,
        failure_reason="BackoffLimitExceeded",
        failure_message="x",
        finished_s=START_S,
    )
    run.has(jobs=(over,), pods=())
    for _ in range(3):
        assert (Delete("Job", check.name, "check-1"),) == run.look().actions
    assert (Phase.CHECKING, 1) == (run.status.phase, run.status.restarts)
    run.has(jobs=())
    assert (Ensure(Part.PREFLIGHT),) == run.settle().actions


def test_a_refused_spec_says_why_and_recovers_when_it_is_mended() -> None:
    run = Run(refusal="spec.training.config.optim.lr_typo: unknown setting")
    run.look()
    assert (Phase.FAILED, "False") == (run.status.phase, run.condition(ConditionType.ACCEPTED)[0])
    assert "lr_typo" in run.status.summary.message
    run.refusal = ""
    assert (Ensure(Part.PREFLIGHT),) == run.settle().actions
    assert "True" == run.condition(ConditionType.ACCEPTED)[0]


def test_nothing_is_made_for_a_resource_that_goes_or_belongs_to_another_backend() -> None:
    assert () == Run(is_deleted=True).look().actions
    elsewhere = Run(spec_of(backend="slurm", slurm={"site": "alps"}))
    assert () == elsewhere.look().actions
    assert Phase.PENDING is elsewhere.status.phase


def test_a_node_that_fails_a_run_twice_is_avoided() -> None:
    run = running()
    for attempt in (1, 2):
        ended = tuple(failed_pod(attempt, 0, 137, word=False, at_s=run.now_s + k, node="bad") for k in range(4))
        run.has(pods=(*ended, coordinator(attempt)))
        run.settle()
        run.children = Children()
        run.wait(60)
        decision = run.settle()
        if attempt == 1:
            make_children(run, 2)
            run.has(group=group(2, commit_step=200))
            run.settle()
    assert any(isinstance(action, Ensure) and action.excluded_nodes == ("bad",) for action in decision.actions)


def test_words_of_pods_cannot_act_on_a_terminal() -> None:
    run = running()
    evil = Termination(code=11, reason="x", message="bad\x1b[2J\u202egpj\ud800", rank=0)
    run.has(pods=(failed_pod(1, 0, 11, termination=evil), coordinator(1)))

    run.settle()
    assert run.status.summary.message.startswith("bad[2Jgpj")
