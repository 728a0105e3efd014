"""How a launcher stops, gives way and ends, with a simulated clock: no process, no socket, no sleep."""

from conductor_bench import Node, running

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.messages import (
    Complete,
    Down,
    Leave,
    Pong,
    Ready,
    Refused,
    Regroup,
    Stop,
    Verdict,
)
from sam3ft_api.worker import FlagKind
from sam3ft_trainer.run.launcher.commands import RaiseFlag, StopWorkers
from sam3ft_trainer.run.launcher.rules import State


def test_a_stop_ends_the_workers_and_the_node_is_ready_again_without_a_failure():
    node = running()
    node.hear(Stop(round=1, reason="m is lost"))
    node.end(-15, -15)

    assert node.told(Down) == []
    assert node.told(Ready)[1].code is None
    assert node.conductor.state is State.READY


def test_a_stop_of_another_round_is_ignored():
    node = running()
    node.hear(Stop(round=9))

    assert node.count(StopWorkers) == 0


def test_a_done_node_starts_again_when_its_round_is_stopped():
    node = running()
    node.end(0, 0)
    node.hear(Stop(round=1, reason="m is lost"))

    assert len(node.told(Ready)) == 2


def test_a_lost_peer_leaves_the_siblings_a_moment_to_say_what_happened():
    node = running()
    node.end(23)
    node.tick(1.9)
    assert node.count(StopWorkers) == 0

    node.tick(0.2)

    assert node.count(StopWorkers) == 1


def test_a_cause_counts_more_than_its_consequence():
    node = running()
    node.end(23)
    node.end(11)

    assert [message.code for message in node.told(Verdict)] == [11]


def test_a_regroup_raises_the_flag_and_the_siblings_may_finish():
    node = running()
    node.hear(Regroup(round=1))
    flags = [command.flag.kind for command in node.commands if isinstance(command, RaiseFlag)]
    node.end(26)
    assert node.count(StopWorkers) == 0
    node.end(26)

    assert flags == [FlagKind.REGROUP]
    assert node.told(Down) == []
    assert len(node.told(Ready)) == 2


def test_an_eviction_asks_the_workers_to_save_and_ends_with_20():
    node = running(eviction_grace_s=30.0)
    node.request_stop()
    flags = [command.flag for command in node.commands if isinstance(command, RaiseFlag)]
    assert [(flag.kind, flag.deadline_unix_s) for flag in flags] == [(FlagKind.EVICT, 1e9 + 30)]
    assert node.count(StopWorkers) == 0
    node.end(20, 20, step=8, checkpoint_step=8)

    assert [message.commit_step for message in node.told(Leave)] == [8]
    assert node.outcome is not None
    assert (node.outcome.code, node.outcome.checkpoint_step) == (20, 8)


def test_an_eviction_that_cannot_save_in_time_ends_with_143():
    node = running(eviction_grace_s=30.0)
    node.request_stop()
    node.tick(30.1)
    assert node.count(StopWorkers) == 1
    node.end(-15, -15)

    assert node.outcome is not None
    assert node.outcome.code == ExitCode.TERMINATED


def test_a_second_request_kills_at_once():
    node = running()
    node.request_stop()
    node.request_stop()
    assert [command.force for command in node.commands if isinstance(command, StopWorkers)] == [True]
    node.end(-9, -9)

    assert node.outcome is not None
    assert node.outcome.code == ExitCode.TERMINATED


def test_a_request_while_waiting_for_nodes_ends_with_20_at_once():
    node = Node()
    node.request_stop()

    assert node.outcome is not None
    assert node.outcome.code == ExitCode.INTERRUPTED
    assert len(node.told(Leave)) == 1


def test_a_user_s_error_during_an_eviction_is_still_a_verdict():
    node = running()
    node.request_stop()
    node.end(14, 20)

    assert [message.code for message in node.told(Verdict)] == [14]


def test_a_run_that_ends_during_an_eviction_is_complete():
    node = running()
    node.request_stop()
    node.end(0, 0)
    node.hear(Complete())

    assert node.outcome is not None
    assert node.outcome.code == 0


def test_a_fenced_worker_ends_its_launcher_alone():
    node = running()
    node.end(21, 21)

    assert node.told(Verdict) == []
    assert len(node.told(Leave)) == 1
    assert node.outcome is not None
    assert node.outcome.code == ExitCode.FENCED


def test_a_complete_run_gives_stragglers_a_moment_and_ends_with_0():
    node = running()
    node.hear(Complete())
    node.tick(9.9)
    assert node.count(StopWorkers) == 0
    node.tick(0.2)
    assert node.count(StopWorkers) == 1
    node.end(-15, -15)

    assert node.outcome is not None
    assert node.outcome.code == 0


def test_a_launcher_that_is_always_refused_ends_with_21_but_not_while_it_trains():
    waiting, training = Node(), running()
    for node in (waiting, training):
        for _ in range(8):
            node.hear(Refused(reason="the token is not this attempt's"))
            node.now_s += 2.0

    assert waiting.outcome is not None
    assert waiting.outcome.code == ExitCode.FENCED
    assert "token" in waiting.outcome.message
    assert training.outcome is None


def test_a_welcome_after_refusals_forgets_them():
    node = Node()
    node.hear(Refused(reason="attempt 2 is served"))
    node.now_s += 20.0
    node.hear(Regroup(round=9))
    node.hear(Refused(reason="attempt 2 is served"))
    node.hear(Pong(seq=1))

    assert node.outcome is None
