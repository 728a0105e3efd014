"""The main path, and the ends of pods."""

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
    running,
    spec_of,
    started,
)

from sam3ft_api import names
from sam3ft_api.messages import Verdict
from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decision import Delete, Ensure, Part, Pause


def test_the_main_path_checks_starts_runs_and_succeeds() -> None:
    run = Run(spec_of(export={"uri": "s3://m/x"}))
    assert (Ensure(Part.PREFLIGHT),) == run.look().actions
    assert Phase.CHECKING is run.status.phase
    started(run)
    assert () == run.look().actions
    assert (Phase.RUNNING, "2/2", "100/400", "10m", "1.25", "0.500") == (
        run.status.phase, run.status.summary.nodes, run.status.summary.step, run.status.summary.eta,
        run.status.summary.loss, run.status.summary.ap,
    )  # fmt: skip
    assert (9, 80, 2) == (run.status.dataset.images, run.status.checkpoint.step, run.status.replicas)
    run.wait(400)
    run.has(jobs=(job(1, succeeded=2, is_complete=True),), pods=(pod(1, 0, phase="Succeeded"), coordinator(1)))
    decision = run.look()
    assert (Phase.SUCCEEDED, "s3://m/x", 0) == (
        run.status.phase,
        run.status.export.uri,
        run.status.attempts[0].exit_code,
    )
    assert (Delete("Pod", "coordinator", "coordinator-uid"),) == decision.actions
    assert "True" == run.condition(ConditionType.COMPLETE)[0] == run.condition(ConditionType.READY)[0]
    assert ["Checking", "DatasetReady", "Starting", "Running", "Succeeded"] == [note.reason for note in run.notes]


def test_an_attempt_is_opened_in_the_status_before_anything_of_it_is_made() -> None:
    run = checked(Run())

    first = run.look()
    assert 1 == first.status.attempts[0].n
    assert (Ensure(Part.GROUP, 1), Ensure(Part.WORKERS, 1, nodes=2)) == first.actions


@pytest.mark.parametrize("code", [10, 11, 12, 13, 14, 15, 16, 1, 24])
def test_a_verdict_with_a_last_word_ends_the_run_with_what_it_said(code: int) -> None:
    run = running()
    run.has(pods=(failed_pod(1, 0, code), pod(1, 1), coordinator(1)))

    decision = run.look()
    assert Phase.FAILED is run.status.phase
    attempt = run.status.attempts[-1]
    assert (code, 0, 10) == (attempt.exit_code, attempt.first_failure.rank, attempt.lost_steps)
    assert f"it said {code}" in run.status.summary.message
    assert "True" == run.condition(ConditionType.STALLED)[0]
    assert (Pause(names.worker_job_name(RUN, 1), suspend=True),) == decision.actions


def test_the_coordinators_verdict_and_the_jobs_own_words_end_a_run_too() -> None:
    run = running()
    run.has(group=group(1, state="failed", verdict=Verdict(code=12, message="no weights", node="n", rank=3)))
    run.look()
    assert (Phase.FAILED, 12, 3) == (
        run.status.phase, run.status.attempts[-1].exit_code, run.status.attempts[-1].first_failure.rank
    )  # fmt: skip

    run = running()
    message = "Container worker for pod ns/cells-1-0-x failed with exit code 11 matching FailJob rule at index 2"
    run.has(jobs=(job(1, failure_reason="PodFailurePolicy", failure_message=message),), pods=(), group=None)
    run.look()
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
        run.look()
    assert (Phase.RUNNING, counted, 1) == (run.status.phase, run.status.restarts, run.status.attempts[-1].ends)


def test_memory_of_the_host_is_named() -> None:
    run = running()
    run.change(failurePolicy={"maxRestarts": 0})
    run.has(pods=(failed_pod(1, 0, 1, word=False, reason="OOMKilled"), pod(1, 1), coordinator(1)))

    run.look()
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
            run.look()
            if run.status.phase is Phase.FAILED or run.status.attempts[-1].n != attempt:
                break
        if run.status.phase is Phase.FAILED:
            break
        run.has(jobs=(), pods=(), group=None)
        run.wait(60)
        run.look()
        assert attempt + 1 == run.status.attempts[-1].n
        make_children(run, attempt + 1)
        run.look()
    assert (Phase.FAILED, 6) == (run.status.phase, run.status.restarts)
    assert "6 failures within 600 s; failurePolicy.maxRestarts is 5" in run.status.summary.message


def test_ends_without_a_newer_commit_end_the_run_and_a_commit_forgives_them() -> None:
    run = running()
    run.change(failurePolicy={"maxWithoutProgress": 3})
    ended = tuple(failed_pod(1, 0, 143, word=False, is_disrupted=True, at_s=START_S + k) for k in range(3))
    run.has(pods=(*ended[:2], pod(1, 1), coordinator(1)))
    run.look()
    assert 2 == run.status.budget.without_progress
    run.has(group=group(1, commit_step=120))
    run.look()
    assert 0 == run.status.budget.without_progress
    run.has(pods=(*ended, pod(1, 1), coordinator(1)))
    run.look()
    assert (Phase.RUNNING, 1) == (run.status.phase, run.status.budget.without_progress)


def test_the_fourth_end_rolls_to_a_fresh_attempt_before_the_job_controllers_pause() -> None:
    run = running()
    ended = tuple(failed_pod(1, 0, 143, word=False, is_disrupted=True, at_s=START_S + k) for k in range(4))
    run.has(pods=(*ended, pod(1, 1), coordinator(1)))

    decision = run.look()
    assert (Phase.RESTARTING, 1) == (run.status.phase, len(run.status.attempts))
    assert {
        Delete("Job", names.worker_job_name(RUN, 1), "job-1"),
        Delete("Pod", "coordinator", "coordinator-uid"),
    } == set(decision.actions)
    run.has(jobs=(), pods=(pod(1, 1, deletion_s=START_S + 30),))
    assert () == run.look().actions  # one of its pods still saves
    run.has(pods=())
    run.wait(60)
    decision = run.look()
    assert [1, 2] == [attempt.n for attempt in run.status.attempts]
    assert Ensure(Part.WORKERS, 2, nodes=2) in decision.actions
