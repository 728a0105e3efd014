"""What is counted, as what, how long, and what an attempt leaves."""

import pytest
from decide_bench import RUN, START_S, Run, coordinator, failed_pod, group, job, make_children, pod, running, spec_of
from hypothesis import given
from hypothesis import strategies as st

from sam3ft_api import limits, names
from sam3ft_api.messages import Verdict
from sam3ft_api.status import BudgetStatus, Phase
from sam3ft_operator.decide.budget import add_counted, add_ends, counted_within
from sam3ft_operator.decide.ends import end_of, end_of_job
from sam3ft_operator.decide.ledger import incidents
from sam3ft_operator.decision import Ensure

WINDOW_S = 3600.0


@given(st.lists(st.tuples(st.floats(0, 900), st.integers(1, 400)), max_size=120))
def test_the_ledger_is_bounded_and_forgets_late_but_never_early(ends: list[tuple[float, int]]) -> None:
    budget, now_s, true = BudgetStatus(), START_S, []
    for gap_s, count in ends:
        now_s += gap_s
        true.append((now_s, count))
        budget = add_counted(budget, count=count, at_s=now_s, window_s=WINDOW_S)
        told = counted_within(budget, window_s=WINDOW_S, now_s=now_s)
        least = sum(count for at_s, count in true if now_s - at_s <= WINDOW_S - 1)
        most = sum(count for at_s, count in true if now_s - at_s <= WINDOW_S * 31 / 30 + 2)
        assert least <= told <= most
        assert len(budget.counted) <= limits.MAX_BUCKETS


def test_ten_thousand_restarts_can_be_allowed_and_are_counted() -> None:
    budget = BudgetStatus()
    for number in range(10_001):
        budget = add_counted(budget, count=1, at_s=START_S + number / 10, window_s=WINDOW_S)
    assert 10_001 == counted_within(budget, window_s=WINDOW_S, now_s=START_S + 1000)


def test_a_window_that_is_made_larger_later_keeps_the_ledger_bounded() -> None:
    budget = BudgetStatus()
    for number in range(1000):
        budget = add_counted(budget, count=1, at_s=START_S + 10 * number, window_s=20.0)
    for number in range(1000, 1500):
        budget = add_counted(budget, count=1, at_s=START_S + 10 * number, window_s=1e6)
    assert len(budget.counted) <= limits.MAX_BUCKETS


def test_a_newer_commit_begins_the_row_anew_and_an_older_one_does_not() -> None:
    budget = add_ends(add_ends(BudgetStatus(), count=2, commit_step=None), count=1, commit_step=None)
    assert 3 == budget.without_progress
    budget = add_ends(budget, count=1, commit_step=50)
    assert 0 == budget.without_progress
    assert 2 == add_ends(budget, count=2, commit_step=40).without_progress


@pytest.mark.parametrize(
    ("ends", "times"),
    [
        ([(0, 0.0), (1, 5.0), (2, 60.0)], 1),
        ([(0, 0.0), (1, 61.0)], 2),
        ([(0, 0.0), (0, 5.0)], 2),
        ([(0, 0.0), (1, 5.0), (0, 20.0), (1, 25.0)], 2),
        ([], 0),
    ],
)
def test_pods_that_end_together_end_once_and_a_pod_that_ends_again_ends_again(
    ends: list[tuple[int, float]], times: int
) -> None:
    found = [end_of(failed_pod(1, index, 137, word=False, at_s=START_S + at_s)) for index, at_s in ends]

    assert times == len(incidents(tuple(end for end in found if end is not None)))


def test_a_rack_without_power_is_one_end_and_ends_no_run() -> None:
    run = running(spec_of(workers={"nodes": 8}, training={"globalBatchSize": 64}))
    dead = tuple(failed_pod(1, index, 137, word=False, at_s=START_S + index) for index in range(8))
    run.has(pods=(*dead, coordinator(1)), group=None)

    run.look()
    assert (Phase.RESTARTING, 1, 1) == (run.status.phase, run.status.budget.without_progress, run.status.restarts)


def test_a_whole_group_is_not_broken_up_for_the_back_off_of_pods_that_are_there_again() -> None:
    run = running()
    ended = tuple(failed_pod(1, 0, 143, is_disrupted=True, word=False, at_s=START_S + 100 * k) for k in range(4))
    run.has(pods=(*ended, pod(1, 0), pod(1, 1), coordinator(1)))
    run.look()
    assert Phase.RUNNING is run.status.phase


def test_pods_that_leave_a_smaller_or_paused_run_have_not_failed() -> None:
    run = running(spec_of(workers={"nodes": 8}, training={"globalBatchSize": 64}))
    run.change(workers={"nodes": 2, "maxNodes": 8})
    gone = tuple(failed_pod(1, index, 20, at_s=START_S) for index in range(2, 8))
    run.has(jobs=(job(1),), pods=(*gone, pod(1, 0), pod(1, 1), coordinator(1)))
    run.look()
    assert (Phase.RUNNING, 0) == (run.status.phase, run.status.attempts[-1].ends)

    for _ in range(7):
        run = running()
        run.change(suspend=True)
        left = tuple(failed_pod(1, index, 20, at_s=START_S) for index in range(2))
        run.has(jobs=(job(1, is_suspended=True),), pods=(*left, coordinator(1)))
        run.look()
        assert (Phase.SUSPENDED, 0) == (run.status.phase, run.status.budget.without_progress)


@pytest.mark.parametrize("code", [22, 21])
def test_an_outage_that_ends_a_group_is_no_verdict_but_bounded_by_progress(code: int) -> None:
    run = running()
    over = Verdict(code=code, message="the store is away")
    for attempt in range(1, 6):
        run.has(group=group(attempt, state="failed", verdict=over))
        run.look()
        if attempt == 5:
            break
        assert (Phase.RESTARTING, 0, attempt) == (
            run.status.phase,
            run.status.restarts,
            run.status.budget.without_progress,
        )
        run.has(jobs=(), pods=(), group=None)
        run.wait(60)
        assert any(isinstance(action, Ensure) for action in run.look().actions)
        make_children(run, attempt + 1)
    assert Phase.FAILED is run.status.phase
    assert "5 ends in a row without a newer commit" in run.status.summary.message


@pytest.mark.parametrize(
    ("code", "fields", "weight", "reason"),
    [
        (20, {"reason": "OOMKilled"}, "free", "Interrupted"),
        (1, {"reason": "OOMKilled"}, "verdict", "HostOutOfMemory"),
        (1, {"is_disrupted": True}, "free", "Interrupted"),
        (1, {"deletion_s": START_S + 9}, "counted", "InternalError"),
        (24, {"word": False}, "counted", "Hung"),
        (11, {"is_disrupted": True, "word": False}, "free", "Interrupted"),
        (11, {"is_disrupted": True}, "verdict", "InvalidDataset"),
        (None, {"word": False, "reason": "NodeLost"}, "free", "Terminated"),
        (-9, {"word": False}, "counted", "Killed"),
        (2**31, {"word": False}, "counted", "InternalError"),
    ],
)
def test_an_end_weighs_what_the_word_and_the_cluster_say_together(
    code: int | None, fields: dict[str, object], weight: str, reason: str
) -> None:
    given_ = {"exit_code": code} if code is None or not 0 <= code <= 255 else {}
    end = end_of(failed_pod(1, 0, code if not given_ else 1, **{**fields, **given_}))

    assert (weight, reason) == (end.weight.value, end.reason)
    assert 0 <= end.code <= 255


def test_a_job_that_failed_by_its_policy_tells_a_verdict_only_for_a_code_that_is_one() -> None:
    said = "Container worker for pod ns/x failed with exit code {} matching FailJob rule at index 2"
    assert 12 == end_of_job("PodFailurePolicy", said.format(12), at_s=START_S).code
    assert None is end_of_job("PodFailurePolicy", said.format(20), at_s=START_S)
    assert None is end_of_job("BackoffLimitExceeded", said.format(12), at_s=START_S)


def test_the_words_of_the_failing_rank_are_kept_although_the_verdict_came_first() -> None:
    run = running()
    run.has(group=group(1, state="failed", verdict=Verdict(code=14, message="another owner", node="n", rank=1)))
    run.look()
    assert Phase.FAILED is run.status.phase
    brief = run.status.attempts[-1].first_failure
    word = failed_pod(1, 1, 14).termination.model_copy(
        update={"traceback": "line 1\nline 2", "message": "another owner"}
    )
    run.has(pods=(failed_pod(1, 0, 20), failed_pod(1, 1, 14, termination=word)), group=None)

    run.look()
    kept = run.status.attempts[-1].first_failure
    assert (1, True) == (kept.rank, kept.message.endswith("line 2"))
    assert "line 2" not in brief.message


def test_the_time_until_the_next_step_is_known_once_there_is_one() -> None:
    run = running()
    run.has(jobs=(job(1, failure_reason="Odd"),), pods=())
    run.look()
    run.has(jobs=(), group=None)
    run.wait(60)
    run.look()
    make_children(run, 2)
    loading = group(2).progress.model_copy(update={"last_step_unix_s": None})
    run.has(group=group(2, progress=loading))
    run.look()
    assert [None, None] == [attempt.recovery_seconds for attempt in run.status.attempts]
    run.wait(40)
    run.has(group=group(2, progress=loading.model_copy(update={"last_step_unix_s": START_S + 90})))
    run.look()
    assert [90.0, None] == [attempt.recovery_seconds for attempt in run.status.attempts]


def test_a_group_that_says_it_is_complete_needs_no_straggler() -> None:
    run = running()
    run.has(group=group(1, state="complete"))
    assert () == run.look().actions
    assert Phase.RUNNING is run.status.phase
    killed = failed_pod(1, 1, 137, word=False)
    run.has(pods=(pod(1, 0, phase="Succeeded"), killed, coordinator(1)), group=group(1, state="complete"))

    run.look()
    assert (Phase.SUCCEEDED, 0) == (run.status.phase, run.status.attempts[-1].exit_code)


def blamed() -> Run:
    """Return a run whose third attempt avoids a node on which two have failed."""
    run = running()
    for attempt in (1, 2):
        ended = tuple(failed_pod(attempt, 0, 137, word=False, at_s=run.now_s + k, node="bad") for k in range(4))
        run.has(pods=(*ended, coordinator(attempt)), group=group(attempt, commit_step=100 * attempt))
        run.look()
        run.has(jobs=(), pods=(), group=None)
        run.wait(60)
        decision = run.look()
        make_children(run, attempt + 1)
        run.has(group=group(attempt + 1, commit_step=100 * attempt))
    assert Ensure(decision.actions[-1].part, 3, 2, ("bad",)) == decision.actions[-1]
    return run


def test_a_node_that_fails_a_run_twice_is_avoided_and_that_is_told() -> None:
    run = blamed()
    assert ["NodesAvoided"] == [note.reason for note in run.notes if "bad" in note.message and note.reason[0] == "N"]


def test_no_node_is_avoided_any_more_when_no_other_is_found() -> None:
    run = blamed()
    waiting = tuple(
        pod(3, index, phase="Pending", node="", unschedulable="0/1 nodes", created_s=run.now_s) for index in range(2)
    )
    run.has(pods=(*waiting, coordinator(3)), group=group(3, state="waiting", ready_nodes=0))
    run.wait(599)
    run.look()
    assert 3 == run.status.attempts[-1].n
    assert None is run.status.attempts[-1].finished
    run.wait(1)
    run.look()
    assert ("NoNodeLeft", 0) == (run.status.attempts[-1].reason, run.status.attempts[-1].counted)
    run.has(jobs=(), pods=(), group=None)
    run.wait(60)
    [made] = [action for action in run.look().actions if isinstance(action, Ensure) and action.excluded_nodes == ()][
        -1:
    ]
    assert (4, ()) == (made.attempt, made.excluded_nodes)
    assert names.worker_job_name(RUN, 4) != names.worker_job_name(RUN, 3)
