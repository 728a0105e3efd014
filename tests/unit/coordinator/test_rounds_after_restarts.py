"""Rules of membership when coordinator or launchers come back, with a simulated clock: no socket, no sleep."""

import pytest
from rounds_bench import TOKEN, Run, running

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.messages import (
    Complete,
    Done,
    Heartbeat,
    Hello,
    Pong,
    Refused,
    Regroup,
    Round,
    Stop,
    Verdict,
)
from sam3ft_api.worker import Progress
from sam3ft_launch.coordinator.roster import NodeState
from sam3ft_launch.coordinator.settings import Settings
from sam3ft_launch.coordinator.view import progress_view


def test_running_members_are_adopted_after_a_restart_and_nobody_stops():
    run = Run(now_s=0.0, nodes=2, min_nodes=1, max_nodes=3)
    run.hello(1, round=7, members=("n0", "n1"))
    run.wait(3)
    run.hello(0, round=7, members=("n0", "n1"))
    run.wait(20)

    assert run.heard(0) == run.heard(1) == []
    assert run.rounds.formation.number == 7
    assert run.rounds.nodes["n0"].state is NodeState.RUNNING
    run.ready(1, code=23)
    run.ready(0, code=23)
    run.wait(0.3)
    assert run.heard(0, Round)[-1].round == 8


def test_a_member_that_does_not_come_back_after_a_restart_is_lost():
    run = Run(now_s=0.0, nodes=2, min_nodes=1, max_nodes=2)
    run.hello(1, round=7, members=("n0", "n1"))
    run.wait(4.8)
    assert run.heard(1, Stop) == []

    run.wait(0.4)

    assert len(run.heard(1, Stop)) == 1


def test_a_newcomer_starts_no_round_while_running_members_may_come_back():
    run = Run(now_s=0.0, nodes=1, min_nodes=1, max_nodes=2)
    run.join(0)
    run.wait(2)
    run.hello(1, round=3, members=("n1",))
    run.wait(10)

    assert run.heard(0, Round) == []
    assert len(run.heard(1, Regroup)) == 1
    assert run.heard(1, Stop) == []


def test_a_full_first_round_starts_at_once_also_right_after_the_start():
    run = Run(now_s=0.0)
    run.join(0)

    assert len(run.heard(0, Round)) == 1


def test_a_member_that_stopped_during_the_outage_stops_the_round():
    run = Run(now_s=0.0, nodes=2, min_nodes=1, max_nodes=2)
    run.hello(0, round=7, members=("n0", "n1"))

    run.join(1)

    assert len(run.heard(0, Stop)) == 1


@pytest.mark.parametrize("done_first", [True, False])
def test_a_member_that_was_done_during_the_outage_stops_nobody(done_first: bool):  # noqa: FBT001 - a parameter
    run = Run(now_s=0.0, nodes=2, min_nodes=1, max_nodes=2)
    if not done_first:
        run.hello(0, round=7, members=("n0", "n1"))
    run.hello(1)
    run.say(1, Done())
    if done_first:
        run.hello(0, round=7, members=("n0", "n1"))
    run.wait(20)
    assert run.heard(0) == run.heard(1) == []

    run.say(0, Done())

    assert len(run.heard(1, Complete)) == 1


def test_a_hello_with_an_older_round_is_stopped_at_once():
    run = running(2)
    run.drop(1)
    run.ready(0)
    run.wait(0.3)
    run.silent.discard(1)
    run.hello(1, peer=11, round=1, members=("n0", "n1"))

    assert [message.round for message in run.heard(1, Stop)] == [1]


def test_of_two_adopted_rounds_the_newer_one_goes_on():
    run = Run(now_s=0.0, nodes=1, min_nodes=1, max_nodes=2)
    run.hello(0, round=3, members=("n0",))
    run.hello(1, round=4, members=("n1",))

    assert len(run.heard(0, Stop)) == 1
    assert run.heard(1, Stop) == []


def test_the_same_launcher_may_connect_again_before_the_old_connection_is_seen_to_end():
    run = running(2)
    run.hello(1, peer=21, round=1, members=("n0", "n1"))
    run.do(run.rounds.closed(1, now_s=run.now_s))
    run.wait(5)

    assert run.heard(0, Stop) == []
    assert 1 in run.closed


def test_a_replacement_pushes_the_older_instance_out_and_it_cannot_come_back():
    run = running(2)
    run.hello(1, peer=21, instance="b")

    assert [message.code for message in run.sent[1] if isinstance(message, Verdict)] == [ExitCode.FENCED]
    assert 1 in run.closed
    run.wait(0.3)
    assert len(run.heard(0, Stop)) == 1
    run.hello(1, peer=31, instance="a", round=1, members=("n0", "n1"))
    assert [message.code for message in run.sent[31]] == [ExitCode.FENCED]
    assert run.rounds.verdict is None
    assert run.rounds.nodes["n1"].hello.instance == "b"


def test_after_a_restart_the_later_start_decides_between_two_instances():
    run = Run(now_s=0.0, nodes=1)
    run.hello(0, peer=1, instance="new", started_unix_s=200.0)
    run.hello(0, peer=2, instance="old", started_unix_s=100.0)

    assert [message.code for message in run.sent[2]] == [ExitCode.FENCED]
    assert run.rounds.nodes["n0"].peer == 1


@pytest.mark.parametrize(("slot", "name"), [(1, "n0"), (0, "other")])
def test_a_slot_belongs_to_one_name(slot: int, name: str):
    run = Run(nodes=2, max_nodes=2)
    run.hello(0)
    run.hello(slot, peer=9, node=name)

    assert isinstance(run.sent[9][0], Refused)
    assert 9 in run.closed
    assert list(run.rounds.nodes) == ["n0"]


def test_a_heartbeat_is_answered_and_its_progress_kept():
    run = running(1)
    run.say(0, Heartbeat(seq=5, step=3, commit_step=2, progress=Progress(state="training", step=3)))

    assert run.sent[0][-1] == Pong(seq=5, round=1)
    view = progress_view(run.rounds, now_s=run.now_s)
    assert view["progress"]["step"] == 3
    assert view["commit_step"] == 2
    assert view["state"] == "running"
    assert TOKEN not in str(view)


def test_a_second_hello_on_one_connection_ends_it():
    run = running(1)
    run.say(0, Hello(node="n0", slot=0, instance="a", started_unix_s=0.0, attempt=1, token=TOKEN, addr="10.0.0.1"))

    assert 0 in run.closed


def test_settings_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="min-nodes 3, nodes 2"):
        Settings(nodes=2, min_nodes=3, max_nodes=3)


def test_a_run_that_has_begun_needs_no_gate_after_a_restart_of_the_coordinator():
    """The workers of the survivors had ended before the coordinator came back: nobody's round runs any more."""
    run = Run(now_s=0.0, nodes=3, min_nodes=1, max_nodes=3)
    for slot in (1, 2):
        run.hello(slot, past_round=7)
        run.ready(slot, code=23)
    run.wait(4.8)
    assert run.heard(1, Round) == []

    run.wait(0.4)

    assert run.heard(1, Round)[0].members == ("n1", "n2")
    assert run.heard(1, Round)[0].round == 8


def test_connections_that_died_during_a_pause_of_the_coordinator_are_no_loss():
    """Launchers have connected again and again to a stopped coordinator; it finds all those connections at once."""
    run = running(2)
    run.now_s += 10
    for slot in (0, 1):
        run.do(run.rounds.closed(slot, now_s=run.now_s))
    for peer in (10, 20):
        for slot in (0, 1):
            run.hello(slot, peer=peer + slot, round=1, members=("n0", "n1"))
            if peer == 10:
                run.do(run.rounds.closed(peer + slot, now_s=run.now_s))

    run.wait(10)

    assert run.heard(0) == run.heard(1) == []


def test_a_death_soon_after_the_coordinator_s_start_is_seen_at_once_when_it_saw_the_round_begin():
    run = Run(now_s=0.0, nodes=3, min_nodes=1, max_nodes=3)
    run.join(0, 1, 2)
    run.drop(1)
    assert len(run.heard(0, Stop)) == 1
    run.ready(0)
    run.ready(2)

    run.wait(0.3)

    assert run.heard(0, Round)[-1].members == ("n0", "n2")


def test_when_nobody_is_heard_any_more_the_coordinator_waits_for_all_to_come_back():
    run = running(3)
    run.silent.update((0, 1, 2))
    run.wait(60)
    assert {0, 1, 2} <= run.closed
    run.silent.clear()
    for slot, peer in ((2, 12), (0, 10)):
        run.hello(slot, peer=peer, round=1, members=("n0", "n1", "n2"))
    run.silent.add(1)
    run.wait(4.0)
    run.silent.discard(1)
    run.hello(1, peer=11, round=1, members=("n0", "n1", "n2"))

    run.wait(10)

    assert [run.heard(slot) for slot in range(3)] == [[], [], []]


def test_when_nobody_was_heard_a_member_that_does_not_come_back_is_lost():
    run = running(3)
    run.silent.update((0, 1, 2))
    run.wait(60)
    run.silent.difference_update((0, 2))
    for slot, peer in ((2, 12), (0, 10)):
        run.hello(slot, peer=peer, round=1, members=("n0", "n1", "n2"))
    run.wait(4.8)
    assert run.heard(0, Stop) == []

    run.wait(0.4)

    assert len(run.heard(0, Stop)) == len(run.heard(2, Stop)) == 1


def test_two_nodes_that_fall_silent_together_are_lost_while_a_third_is_heard():
    run = running(3)
    run.silent.update((0, 1))
    run.wait(3.2)

    assert len(run.heard(2, Stop)) == 1


def test_whose_fault_a_silence_is_is_decided_by_the_next_heartbeat_of_another():
    run = running(2)
    run.silent.add(0)
    run.wait(1.0)
    run.silent.add(1)
    run.wait(2.5)
    assert run.heard(1, Stop) == []  # node 0 is silent, and node 1 overdue

    run.silent.discard(1)
    run.wait(0.1)

    assert len(run.heard(1, Stop)) == 1
    assert run.closed == {0}
