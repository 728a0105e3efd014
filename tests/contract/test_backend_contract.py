"""What every backend promises; the suite is parametrised over all of them."""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from backend_bench import Bench

from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.backend import Handle, Observed, RunState


def until(bench: Bench, handle: Handle, holds: Callable[[Observed], bool], timeout_s: float = 60.0) -> Observed:
    give_up_at = time.monotonic() + timeout_s
    while not holds(observed := bench.backend.observe(handle)):
        assert time.monotonic() < give_up_at, f"still {observed}"
        time.sleep(0.05)
    return observed


def is_over(observed: Observed) -> bool:
    return observed.state.is_terminal


def runs(observed: Observed) -> bool:
    return observed.state is RunState.RUNNING


def test_render_is_a_function_of_the_plan_alone(bench: Bench):
    plan = bench.plan("wait")

    first, second = bench.backend.render(plan), bench.backend.render(plan)

    assert first == second
    assert str(first) == str(second)
    assert (plan.uid, plan.attempt) == first.key


def test_render_touches_nothing(bench: Bench, tmp_path: Path):
    bench.backend.render(bench.plan("wait"))

    assert [] == list(tmp_path.iterdir())


def test_a_run_that_ends_well_is_seen_as_succeeded(bench: Bench):
    handle = bench.submit("end:0")

    observed = until(bench, handle, is_over)

    assert (RunState.SUCCEEDED, 0) == (observed.state, observed.exit_code)


def test_a_running_run_shows_its_progress_and_heartbeat(bench: Bench):
    handle = bench.submit("wait")

    observed = until(bench, handle, runs)

    assert (3, 9) == (observed.progress.step, observed.progress.total_steps)
    assert 0 <= observed.heartbeat_age_s < 20
    assert observed.exit_code is None
    assert observed.node


def test_a_second_submit_returns_the_same_handle_and_starts_nothing(bench: Bench):
    handle = bench.submit("wait")
    until(bench, handle, runs)

    again = bench.submit("wait")

    assert handle == again
    assert 1 == bench.num_starts(handle)


def test_a_second_submit_of_an_ended_attempt_starts_nothing(bench: Bench):
    handle = bench.submit("end:11")
    until(bench, handle, is_over)

    again = bench.submit("end:11")

    assert handle == again
    assert 1 == bench.num_starts(handle)


def test_the_next_attempt_is_a_new_run_and_the_old_one_is_gone(bench: Bench):
    first = bench.submit("end:11 wait")
    until(bench, first, is_over)

    second = bench.submit("end:11 wait", attempt=2)

    until(bench, second, runs)
    assert bench.backend.observe(first).state is RunState.GONE


def test_observing_what_never_was_says_gone(bench: Bench):
    handle = bench.submit("end:0")
    until(bench, handle, is_over)

    stranger = Handle(handle.backend, "u-2", 1, handle.location)

    assert bench.backend.observe(stranger).state is RunState.GONE


def test_a_users_error_ends_the_run_at_once_with_its_code_and_message(bench: Bench):
    handle = bench.submit("end:11")

    observed = until(bench, handle, is_over)

    assert (RunState.FAILED, ExitCode.INVALID_DATASET) == (observed.state, observed.exit_code)
    assert "the script said 11" == observed.message
    assert 1 == bench.num_starts(handle)


def test_a_killed_launcher_is_started_again(bench: Bench):
    handle = bench.submit("die:9 end:0")

    observed = until(bench, handle, is_over)

    assert (RunState.SUCCEEDED, 1) == (observed.state, observed.restarts)
    assert 2 == bench.num_starts(handle)


def test_cancel_lets_the_run_save_and_end_as_interrupted(bench: Bench):
    handle = bench.submit("wait")
    until(bench, handle, runs)

    bench.backend.cancel(handle, grace_s=20)

    observed = until(bench, handle, is_over)
    assert (RunState.INTERRUPTED, ExitCode.INTERRUPTED) == (observed.state, observed.exit_code)


def test_cancel_kills_what_does_not_end_in_time(bench: Bench):
    handle = bench.submit("deaf")
    until(bench, handle, runs)

    bench.backend.cancel(handle, grace_s=0.2)

    observed = until(bench, handle, is_over)
    assert (RunState.FAILED, ExitCode.KILLED) == (observed.state, observed.exit_code)
    assert 1 == bench.num_starts(handle)


def test_cancelling_twice_or_after_the_end_changes_nothing(bench: Bench):
    handle = bench.submit("wait")
    until(bench, handle, runs)
    bench.backend.cancel(handle, grace_s=20)
    bench.backend.cancel(handle, grace_s=20)
    ended = until(bench, handle, is_over)

    bench.backend.cancel(handle, grace_s=20)

    assert ended.exit_code == bench.backend.observe(handle).exit_code


def test_delete_ends_a_running_run_and_forgets_it(bench: Bench):
    handle = bench.submit("wait")
    until(bench, handle, runs)

    bench.backend.delete(handle)

    assert bench.backend.observe(handle).state is RunState.GONE


def test_delete_and_cancel_of_what_is_gone_do_nothing(bench: Bench):
    handle = bench.submit("end:0")
    until(bench, handle, is_over)
    bench.backend.delete(handle)

    bench.backend.delete(handle)
    bench.backend.cancel(handle, grace_s=1)

    assert bench.backend.observe(handle).state is RunState.GONE


def test_delete_leaves_the_users_files(bench: Bench):
    handle = bench.submit("wait")
    until(bench, handle, runs)
    kept = bench.user_files(handle) / "commit"
    kept.parent.mkdir()
    kept.write_text("weights")

    bench.backend.delete(handle)

    assert "weights" == kept.read_text()


def test_logs_are_bounded(bench: Bench):
    handle = bench.submit("die:9 end:0")
    until(bench, handle, is_over)

    lines = list(bench.backend.logs(handle, lines=2))

    assert 2 == len(lines)


def test_followed_logs_go_on_over_a_restart_and_end_with_the_run(bench: Bench):
    if not bench.backend.capabilities.follow_logs:
        pytest.fail("every present backend can follow")
    handle = bench.submit("die:9 end:0")

    lines = list(islice(bench.backend.logs(handle, lines=100, follow=True), 1000))

    text = "\n".join(lines)
    assert "start 1: die 9" in text
    assert "start 2: end 0" in text


def test_plans_beyond_the_capabilities_are_refused_by_name(bench: Bench):
    plan = bench.plan("wait", nodes=2, max_nodes=2)
    if bench.backend.capabilities.multi_node:
        assert "2" in str(bench.backend.render(plan))
        return

    with pytest.raises(Exception, match="2 nodes") as caught:
        bench.backend.render(plan)

    assert ExitCode.INVALID_CONFIG == caught.value.code
    assert type(bench.backend).__name__ in str(caught.value)
