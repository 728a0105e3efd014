"""What happens to a group, counted: rounds and their causes, nodes that go, steps that are done, new commits."""

from collections.abc import Callable
from typing import Any

import pytest
from metrics_bench import CountedRun, hello, started

from sam3ft_api import limits
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.messages import Done, Down, Heartbeat, Hello, Leave, Verdict
from sam3ft_api.worker import Progress
from sam3ft_launch.coordinator.counts import Counts

# --- steps and commits -----------------------------------------------------------------------------------------------


def told(*relayed: tuple[str, int, int | None]) -> tuple[int, float | None]:
    """Return the steps that are counted and when the newest commit was told, after relays at 0, 1, 2... seconds."""
    counts = Counts()
    for second, (state, step, commit) in enumerate(relayed):
        counts.learn(Progress(state=state, step=step, checkpoint_step=commit), now_unix_s=float(second))
    return counts.steps, counts.commit_unix_s


@pytest.mark.parametrize(
    ("relayed", "steps"),
    [
        ([("loading", 0, None), ("training", 7, None), ("training", 9, None)], 9),
        ([("loading", 0, None), ("training", 101, 100), ("training", 110, 100)], 10),  # resumed from 100
        ([("training", 150, 100), ("training", 160, 100)], 10),  # this process began in the middle
        ([("training", 150, 100), ("loading", 0, None), ("training", 120, 100)], 20),  # killed after 150
        ([("training", 150, 100), ("training", 103, 100)], 3),  # the same, seen less often
        ([("training", 5, None), ("evaluating", 5, None), ("training", 6, None)], 1),
        ([("training", 5, None), ("training", limits.MAX_STEP + 1, None), ("training", -3, None)], 0),
    ],
)
def test_steps_are_counted_once_for_each_time_that_they_are_done(relayed: list[Any], steps: int):
    assert steps == told(*relayed)[0]


@pytest.mark.parametrize(
    ("relayed", "at"),
    [
        ([("loading", 0, None), ("training", 7, None), ("training", 12, 10)], 2.0),
        ([("training", 7, None), ("training", 12, 10), ("training", 13, 10)], 1.0),
        ([("loading", 0, None), ("training", 101, None), ("training", 102, 100)], None),  # resumed: of unknown age
        ([("training", 150, 100), ("training", 200, 200)], 1.0),
        ([("training", 150, None), ("training", 200, 200), ("loading", 0, None), ("training", 201, 200)], 1.0),
        ([("training", 7, None), ("training", 12, limits.MAX_STEP + 1)], None),
    ],
)
def test_a_commit_has_the_time_at_which_it_was_told_when_it_was_seen_to_be_made(relayed: list[Any], at: float | None):
    assert at == told(*relayed)[1]


# --- the group -------------------------------------------------------------------------------------------------------


def test_a_running_group_shows_members_processes_nodes_and_bounds():
    run = CountedRun(nodes=2, min_nodes=1, max_nodes=3)
    run.hello(0, processes=4)
    run.ready(0)
    run.wait(0.5)
    assert 0.4 < (run.value("sam3ft_group_forming_seconds") or 0) < 0.6
    run.hello(1, processes=4)
    run.ready(1)
    run.wait(0.3)

    expected = {"members": 2, "processes": 8, "round": 1, "attempt": 1, "forming_seconds": 0, "joins_total": 2}
    assert expected == {name: run.value(f"sam3ft_group_{name}") for name in expected}
    assert {"running": 1.0} == run.positive("sam3ft_group_state")
    assert {"running": 2.0} == run.positive("sam3ft_group_nodes")
    assert {"min": 1.0, "start": 2.0, "max": 3.0} == run.positive("sam3ft_group_nodes_limit")
    assert {"first": 1.0} == run.positive("sam3ft_group_rounds_total")
    assert 1.0 == run.value("sam3ft_group_start_wait_seconds_count")
    assert 0.4 < (run.value("sam3ft_group_start_wait_seconds_sum") or 0) < 0.7
    assert run.value("sam3ft_group_exit_code") is None


def again(run: CountedRun, *slots: int, code: int | None = None) -> None:
    for slot in slots:
        run.ready(slot, code=code)
    run.wait(6)


def lose(run: CountedRun) -> None:
    run.drop(1)
    run.wait(0.1)
    again(run, 0, 2)


def lose_late(run: CountedRun) -> None:
    run.ready(0, code=int(ExitCode.PEER_LOST))
    run.drop(1)
    run.wait(0.1)
    again(run, 2)


def fall_silent(run: CountedRun) -> None:
    run.silent.add(1)
    run.wait(4)
    again(run, 0, 2)


def fail(run: CountedRun) -> None:
    run.say(1, Down(round=1, code=1, message="x"))
    run.wait(0.1)
    again(run, 0, 2)
    again(run, 1, code=1)


def leave(run: CountedRun) -> None:
    run.say(1, Leave(commit_step=7))
    run.silent.add(1)
    again(run, 0, 2, code=int(ExitCode.REGROUP))


def leave_the_others_at_work(run: CountedRun) -> None:
    run.say(1, Leave())
    run.silent.add(1)
    run.wait(run.settings.last_call_s + 1)
    again(run, 0, 2)


def join(run: CountedRun) -> None:
    run.join(3)
    run.wait(0.1)
    again(run, 0, 1, 2, code=int(ExitCode.REGROUP))


def replace(run: CountedRun) -> None:
    run.hello(1, peer=9, instance="b", started_unix_s=5.0)
    run.wait(0.1)
    again(run, 0, 1, 2)


def misbehave(run: CountedRun) -> None:
    run.say(1, Hello.model_validate_json(hello(node="n1", slot=1)))
    run.silent.add(1)
    run.wait(0.1)
    again(run, 0, 2)


@pytest.mark.parametrize(
    ("what", "rounds", "departures", "failures"),
    [
        (lose, {"lost"}, {"closed": 1}, {}),
        (lose_late, {"lost"}, {"closed": 1}, {"PeerLost": 1}),
        (fall_silent, {"lost"}, {"silent": 1}, {}),
        (fail, {"failed"}, {}, {"InternalError": 1}),
        (leave, {"left"}, {"left": 1}, {}),
        (leave_the_others_at_work, {"left"}, {"left": 1}, {}),
        (join, {"join"}, {}, {}),
        (replace, {"lost"}, {"replaced": 1}, {}),
        (misbehave, {"lost"}, {"unexpected": 1}, {}),
    ],
)
def test_every_new_round_has_its_cause(
    what: Callable[[CountedRun], None], rounds: set[str], departures: dict[str, int], failures: dict[str, int]
):
    run = started(3, max_nodes=4)
    what(run)

    assert {"first"} | rounds <= run.positive("sam3ft_group_rounds_total").keys()
    assert departures == run.positive("sam3ft_group_departures_total")
    assert failures == run.positive("sam3ft_group_failures_total")


def test_a_coordinator_that_began_later_does_not_call_its_round_the_first():
    run = CountedRun(nodes=2, min_nodes=1, max_nodes=2)
    for slot in (0, 1):
        run.hello(slot, past_round=4)
        run.ready(slot)
    run.wait(0.5)

    assert {"other": 1.0} == run.positive("sam3ft_group_rounds_total")
    assert 5.0 == run.value("sam3ft_group_round")


def test_launchers_that_go_because_the_run_is_over_are_no_departures():
    run = started(2)
    for slot in (0, 1):
        run.say(slot, Done(step=9, complete=slot == 0))
    run.drop(0)
    run.drop(1)

    assert {} == run.positive("sam3ft_group_departures_total")
    assert {"complete": 1.0} == run.positive("sam3ft_group_state")
    assert 0.0 == run.value("sam3ft_group_exit_code")


def test_a_verdict_is_shown_as_the_code_of_the_run():
    run = started(2)
    run.say(0, Verdict(code=11, message="x", node="n0"))

    assert 11.0 == run.value("sam3ft_group_exit_code")
    assert {"failed": 1.0} == run.positive("sam3ft_group_state")


def test_each_node_shows_its_silence_its_step_and_its_restarts():
    run = started(2)
    run.say(1, Heartbeat(seq=1, step=5, restarts=2))
    run.silent.add(1)
    run.wait(1)

    assert 0.9 < (run.value("sam3ft_group_node_silence_seconds", slot="1") or 0) < 1.1
    assert 0.0 == run.value("sam3ft_group_node_silence_seconds", slot="0")
    assert (5.0, 2.0) == (
        run.value("sam3ft_group_node_step", slot="1"),
        run.value("sam3ft_group_node_restarts_total", slot="1"),
    )
