"""Each rule of membership with a simulated clock: no socket, no sleep."""

from rounds_bench import Run, running

from sam3ft_api.messages import (
    Complete,
    Done,
    Down,
    Leave,
    Regroup,
    Round,
    Stop,
    Verdict,
)


def test_the_first_round_waits_for_all_nodes_and_starts_once():
    run = Run(nodes=3, min_nodes=1, max_nodes=3)
    run.join(2)
    run.wait(15)
    run.join(0)
    run.wait(15)
    assert run.heard(0) == []

    run.join(1)

    rounds = [run.heard(slot, Round) for slot in range(3)]
    assert [len(found) for found in rounds] == [1, 1, 1]
    assert [found[0].node_rank for found in rounds] == [0, 1, 2]
    assert {found[0].master_addr for found in rounds} == {"10.0.0.1"}
    assert rounds[0][0].members == ("n0", "n1", "n2")


def test_ranks_follow_slots_as_numbers_and_nodes_may_differ_in_size():
    run = Run(nodes=2, min_nodes=2, max_nodes=2)
    run.hello(10, processes=3)
    run.ready(10, micro_batch_max=4)
    run.hello(2, processes=2)
    run.ready(2, micro_batch_max=8, commit_step=40)

    first, second = run.heard(2, Round)[0], run.heard(10, Round)[0]
    assert (first.first_rank, second.first_rank, first.world_size) == (0, 2, 5)
    assert (first.micro_batch_max, first.commit_step, first.master_port) == (4, 40, 4002)


def test_the_gate_opens_at_the_deadline_with_min_nodes_and_counts_only_the_living():
    run = Run(nodes=3, min_nodes=2, max_nodes=3, gate_deadline_s=30)
    run.join(0, 1)
    run.hello(2)
    run.drop(2)
    run.wait(29.9)
    assert run.heard(0, Round) == []

    run.wait(0.3)

    assert run.heard(0, Round)[0].members == ("n0", "n1")


def test_the_gate_s_deadline_begins_again_when_nobody_waits_any_more():
    run = Run(nodes=2, min_nodes=1, max_nodes=2, gate_deadline_s=30)
    run.join(0)
    run.drop(0)
    run.wait(25)
    run.silent.discard(0)
    run.join(0)
    run.wait(29)
    assert run.heard(0, Round) == []

    run.wait(1.5)

    assert len(run.heard(0, Round)) == 1


def test_below_min_nodes_the_gate_stays_shut_however_long_it_takes():
    run = Run(nodes=3, min_nodes=2, max_nodes=3, gate_deadline_s=30)
    run.join(0)

    run.wait(40)

    assert run.heard(0, Round) == []


def test_a_closed_connection_stops_the_others_at_once_and_they_form_again():
    run = running(3)

    run.drop(1)

    assert len(run.heard(0, Stop)) == len(run.heard(2, Stop)) == 1
    run.ready(0)
    assert len(run.heard(0, Round)) == 1  # node 2 still runs
    run.ready(2)
    run.wait(0.3)
    assert run.heard(2, Round)[-1].members == ("n0", "n2")
    assert run.heard(2, Round)[-1].round == 2


def test_a_silent_node_is_lost_after_three_seconds_and_cut_off():
    run = running(2)
    run.silent.add(1)
    run.wait(2.8)
    assert run.heard(0, Stop) == []

    run.wait(0.4)

    assert len(run.heard(0, Stop)) == 1
    assert 1 in run.closed


def test_a_held_up_loop_excuses_everybody_s_silence():
    run = running(2)
    run.now_s += 20

    run.do(run.rounds.tick(now_s=run.now_s))

    assert run.heard(0, Stop) == []
    run.silent.add(1)
    run.wait(3.2)
    assert len(run.heard(0, Stop)) == 1


def test_members_that_reconnect_after_a_pause_of_the_coordinator_are_no_loss():
    run = running(2)
    run.now_s += 10
    run.do(run.rounds.closed(0, now_s=run.now_s))
    run.do(run.rounds.tick(now_s=run.now_s))
    run.hello(0, peer=10, round=1, members=("n0", "n1"))
    run.do(run.rounds.closed(1, now_s=run.now_s))
    run.hello(1, peer=11, round=1, members=("n0", "n1"))

    run.wait(10)

    assert run.heard(0) == run.heard(1) == []


def test_a_member_that_died_during_a_pause_of_the_coordinator_is_found_out():
    run = running(2)
    run.now_s += 10
    run.drop(1)
    run.wait(4.8)
    assert run.heard(0, Stop) == []

    run.wait(0.4)

    assert len(run.heard(0, Stop)) == 1


def test_a_worker_s_failure_stops_the_other_nodes_before_the_node_is_ready():
    run = running(2)

    run.say(1, Down(round=1, code=1, message="rank 1 broke", rank=1))

    assert len(run.heard(0, Stop)) == 1
    assert run.rounds.failures[0].message == "rank 1 broke"
    run.ready(0)
    run.ready(1, code=1, message="rank 1 broke", rank=1)
    run.wait(0.3)
    assert len(run.heard(1, Round)) == 2
    assert len(run.rounds.failures) == 1


def test_a_quiet_moment_before_a_round_brings_nodes_in_together():
    run = running(2)
    run.drop(1)
    run.ready(0)
    run.wait(0.1)
    run.silent.discard(1)
    run.join(1)
    run.wait(0.3)

    assert [found.members for found in run.heard(0, Round)] == [("n0", "n1"), ("n0", "n1")]


def test_one_node_is_not_kept_waiting_for_the_settle_time():
    run = running(1)
    run.ready(0, code=23)

    assert [found.round for found in run.heard(0, Round)] == [1, 2]


def test_a_later_round_waits_for_a_connected_node_but_not_beyond_the_last_call():
    run = running(3)
    run.drop(2)
    run.ready(0)
    run.say(1, Down(round=1, code=24))
    run.wait(4.8)
    assert len(run.heard(0, Round)) == 1

    run.wait(0.4)

    assert run.heard(0, Round)[-1].members == ("n0",)


def test_a_spare_that_waited_long_does_not_cut_the_last_call_short():
    run = running(2, max_nodes=2)
    run.join(2)
    run.wait(60)
    run.drop(0)
    run.say(1, Down(round=1, code=23))
    run.wait(1)
    assert run.heard(2, Round) == []

    run.ready(1)
    run.wait(0.3)

    assert run.heard(2, Round)[0].members == ("n1", "n2")


def test_a_newcomer_is_let_in_at_the_next_commit_and_asked_for_once():
    run = running(2, max_nodes=3)
    run.join(2)
    run.wait(79)
    assert [len(run.heard(slot, Regroup)) for slot in (0, 1, 2)] == [1, 1, 0]
    assert run.heard(2, Round) == []

    run.ready(0, code=26)
    run.ready(1, code=26)
    run.wait(0.3)

    assert run.heard(2, Round)[0].members == ("n0", "n1", "n2")


def test_a_newcomer_while_members_stop_simply_joins_the_next_round():
    run = running(2, max_nodes=3)
    run.drop(1)
    run.join(2)
    run.ready(0)
    run.wait(0.3)

    assert run.heard(0, Regroup) == []
    assert run.heard(2, Round)[0].members == ("n0", "n2")


def test_a_full_group_is_not_disturbed_for_a_spare():
    run = running(2)
    run.join(2)
    run.wait(10)

    assert run.heard(0, Regroup) == []


def test_the_first_verdict_wins_and_is_repeated_to_everybody_and_to_late_joiners():
    run = running(2)
    run.say(0, Verdict(code=11, message="bad data", node="n0"))
    run.say(1, Verdict(code=12, message="bad model", node="n1"))
    run.hello(7)

    assert [message.code for message in run.heard(0, Verdict)] == [11, 11]
    assert {message.code for message in run.heard(1, Verdict)} == {11}
    assert [message.message for message in run.heard(7, Verdict)] == ["bad data"]
    run.drop(0)
    run.wait(10)
    assert run.heard(1, Stop) == []


def test_a_node_that_leaves_is_no_loss_but_the_others_get_limited_time_to_save():
    run = running(2)
    run.say(0, Leave(commit_step=12, reason="evicted"))
    run.drop(0)
    run.wait(4.8)
    assert run.heard(1, Stop) == []
    assert run.rounds.commit_step == 12

    run.wait(0.4)

    assert len(run.heard(1, Stop)) == 1


def test_after_a_leave_the_others_form_again_as_soon_as_they_have_saved():
    run = running(3)
    run.say(0, Leave(reason="evicted"))
    run.wait(0.5)
    run.ready(1, code=26)
    run.ready(2, code=26)
    run.wait(0.3)

    assert run.heard(1, Round)[-1].members == ("n1", "n2")


def test_the_run_is_complete_when_every_member_is_done():
    run = running(2)
    run.say(0, Done(step=9))
    assert run.heard(1, Complete) == []

    run.say(1, Done(step=9))

    assert len(run.heard(0, Complete)) == len(run.heard(1, Complete)) == 1
    run.hello(5)
    assert len(run.heard(5, Complete)) == 1


def test_a_verified_export_completes_the_run_without_waiting_for_stragglers():
    run = running(2)
    run.say(0, Done(complete=True))

    assert len(run.heard(1, Complete)) == 1


def test_a_done_node_may_go_away_but_a_lost_straggler_makes_it_start_again():
    run = running(3)
    run.say(0, Done())
    run.drop(0)
    run.wait(5)
    assert run.heard(1, Stop) == []

    run.say(1, Done())
    run.drop(2)

    assert len(run.heard(1, Stop)) == 1
    run.ready(1)
    run.wait(0.3)
    assert run.heard(1, Round)[-1].members == ("n1",)


def test_a_done_node_starts_again_when_the_last_straggler_leaves():
    run = running(2)
    run.say(0, Done())
    run.say(1, Leave(reason="evicted"))

    assert len(run.heard(0, Stop)) == 1


def test_a_member_that_has_saved_does_not_cut_the_others_short():
    run = running(3)
    run.ready(1, code=26)
    run.wait(4.8)
    assert run.heard(0, Stop) == run.heard(2, Stop) == []

    run.wait(0.4)

    assert len(run.heard(0, Stop)) == len(run.heard(2, Stop)) == 1
