"""The launcher's decisions with a simulated clock: no process, no socket, no sleep."""

import pytest
from conductor_bench import Node, running

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.messages import (
    Complete,
    Done,
    Down,
    Leave,
    Ready,
    Verdict,
)
from sam3ft_trainer.run.launcher.budget import Budget
from sam3ft_trainer.run.launcher.commands import Outcome, StartWorkers, StopWorkers, Tell
from sam3ft_trainer.run.launcher.ends import WorkerEnd


def test_a_new_launcher_says_ready_and_starts_its_workers_with_the_round():
    node = running()

    assert len(node.told(Ready)) == 1
    assert node.count(StartWorkers) == 1
    assert node.conductor.restarts == 0


def test_success_of_all_workers_is_told_and_waits_for_the_run_to_be_complete():
    node = running()
    node.end(0)
    assert node.told(Done) == []
    node.end(0, metrics={"bbox_AP": 0.5})
    assert [message.complete for message in node.told(Done)] == [True]
    assert node.outcome is None

    node.hear(Complete())

    assert node.outcome == Outcome(0, "The run is complete.", node="n0", metrics={"bbox_AP": 0.5})


def test_only_the_node_of_rank_0_declares_the_run_complete():
    node = Node()
    node.start(members=("m", "n0"), first_rank=2)
    node.end(0, 0)

    assert [message.complete for message in node.told(Done)] == [False]


@pytest.mark.parametrize("code", [10, 11, 12, 13, 14, 15])
def test_a_user_s_error_is_a_verdict_and_never_retried(code: int):
    node = running()
    node.end(code)
    assert node.count(StopWorkers) == 1
    node.end(143)

    assert [message.code for message in node.told(Verdict)] == [code]
    assert node.told(Ready)[1:] == []
    assert node.outcome is None
    node.hear(node.told(Verdict)[0])
    assert node.outcome is not None
    assert (node.outcome.code, node.outcome.rank) == (code, 0)
    assert f"said {code}" in node.outcome.message


def test_a_verdict_without_an_echo_ends_the_launcher_after_a_while():
    node = running()
    node.end(11, 11)
    node.tick(2.9)
    assert node.outcome is None

    node.tick(0.2)

    assert node.outcome is not None
    assert node.outcome.code == 11


def test_somebody_else_s_verdict_was_first_and_is_everybody_s_code():
    node = running()
    node.end(11, 11)
    node.hear(Verdict(code=14, message="another owner", node="m", rank=5))

    assert node.outcome is not None
    assert (node.outcome.code, node.outcome.node, node.outcome.rank) == (14, "m", 5)


def test_a_verdict_from_elsewhere_ends_running_workers_first():
    node = running()
    node.hear(Verdict(code=11, message="bad", node="m"))
    assert node.count(StopWorkers) == 1
    assert node.outcome is None

    node.end(-15, -15)

    assert node.outcome is not None
    assert (node.outcome.code, node.outcome.message) == (11, "bad")


def test_a_failing_worker_is_told_at_once_and_its_siblings_are_ended():
    node = running()
    node.end(1)

    assert [(message.code, message.rank, message.round) for message in node.told(Down)] == [(1, 0, 1)]
    assert node.count(StopWorkers) == 1
    node.end(-15)
    assert len(node.told(Ready)) == 1
    node.tick(1.1)
    assert len(node.told(Ready)) == 2
    assert node.told(Ready)[1].code == 1


def test_the_pause_doubles_while_nothing_is_committed():
    node = running(budget=Budget(10, 3600.0, 100))
    pauses = []
    for number in range(2, 9):
        node.end(1, 1)
        before, count = node.now_s, len(node.told(Ready))
        while len(node.told(Ready)) == count:
            node.tick(0.5)
        pauses.append(node.now_s - before)
        node.start(number)

    assert pauses == [1, 2, 4, 8, 16, 32, 60]


def test_a_spent_budget_of_restarts_is_a_verdict():
    node = running(budget=Budget(2, 3600.0, 100))
    for number in (2, 3):
        node.end(1, 1)
        node.tick(100)
        node.start(number)
    node.end(1, 1)

    assert [message.code for message in node.told(Verdict)] == [1]
    assert "3 restarts within 3600 s" in node.told(Verdict)[0].message


def test_restarts_outside_the_window_do_not_count():
    node = running(budget=Budget(1, 50.0, 100))
    for number in range(2, 6):
        node.end(24, 24)
        node.tick(100)
        node.start(number)

    assert node.told(Verdict) == []


def test_re_formings_without_a_newer_commit_end_the_run_whatever_their_cause():
    node = running(budget=Budget(10, 3600.0, 3))
    node.conductor.learn_commit(40)
    for number in (2, 3):
        node.end(23, 23)
        node.start(number)
    node.end(26, 26)

    assert [message.code for message in node.told(Verdict)] == [1]
    assert "without a newer commit" in node.told(Verdict)[0].message


def test_a_newer_commit_makes_the_count_begin_again():
    node = running(budget=Budget(10, 3600.0, 3))
    for number in range(2, 12):
        node.end(23, 23, checkpoint_step=number)
        node.start(number)

    assert node.told(Verdict) == []
    assert node.conductor.restarts == 10


def test_a_kill_keeps_its_code_where_the_node_is_the_whole_run():
    node = running(budget=Budget(0, 3600.0, 5))
    node.end(-9, -15)

    assert node.told(Verdict) == []
    assert node.outcome is not None
    assert node.outcome.code == ExitCode.KILLED
    assert "SIGKILL" in node.outcome.message


def test_a_kill_is_an_internal_error_to_the_other_nodes():
    node = Node(budget=Budget(0, 3600.0, 5))
    node.start(members=("n0", "m"))
    node.end(-9, -15)

    assert [message.code for message in node.told(Verdict)] == [1]


@pytest.mark.parametrize("code", [1, -9])
@pytest.mark.parametrize(
    ("budget", "ends"), [(Budget(2, 3600.0, 100), 3), (Budget(10, 3600.0, 3), 2)], ids=["restarts", "no progress"]
)
def test_a_node_that_has_spent_its_restarts_leaves_others_that_go_on_without_it(budget: Budget, ends: int, code: int):
    node = Node(budget=budget, min_nodes=2)
    for number in range(ends):
        node.tick(100)
        assert node.outcome is None
        node.start(number + 1, members=("m", "n0", "o"), node_rank=1, first_rank=2)
        node.end(code, -15)

    assert node.told(Verdict) == []
    assert isinstance(node.told(object)[-1], Down), "its last word stops the others at once, and is counted"
    assert node.outcome is not None
    assert (max(code, 1), "n0") == (node.outcome.code, node.outcome.node)
    assert "The others go on without this node" in node.outcome.message


def test_the_others_outlast_a_node_that_joined_them_and_fails_for_good():
    other, bad = Node(budget=Budget(10, 3600.0, 3)), Node(budget=Budget(10, 3600.0, 3), min_nodes=1)
    other.start(1, members=("n0",))
    other.end(26, 26, checkpoint_step=20)  # it saves, so that the other one can join
    for number in (2, 3):
        for node, place in ((other, 0), (bad, 1)):
            node.tick(100)
            node.start(number, members=("n0", "n1") if node is other else ("m", "n0"), node_rank=place)
        bad.end(1, -15)
        other.end(23, 23)
    assert bad.outcome is not None
    for number in (4, 5):
        assert other.told(Verdict) == []
        other.start(number, members=("n0",))
        other.end(23, 23)

    assert other.told(Verdict) == [], "what it went through with the other one counts no more"


def test_a_node_does_not_leave_because_of_a_hang():
    node = Node(budget=Budget(0, 3600.0, 5), min_nodes=1)
    node.start(members=("m", "n0"), node_rank=1, first_rank=2)
    node.end(24, 24)

    assert [message.code for message in node.told(Verdict)] == [24]


def test_a_node_ends_the_run_where_too_few_others_would_go_on():
    node = Node(budget=Budget(0, 3600.0, 5), min_nodes=2)
    node.start(members=("m", "n0"), node_rank=1, first_rank=2)
    node.end(1, 1)

    assert [message.code for message in node.told(Verdict)] == [1]


def test_a_node_does_not_leave_for_the_fault_of_another():
    node = Node(budget=Budget(10, 3600.0, 2), min_nodes=1)
    node.start(members=("m", "n0"), node_rank=1, first_rank=2)
    node.end(23, 23)

    assert node.told(Leave) == []
    assert node.outcome is None


def test_out_of_memory_halves_what_the_worker_told_and_costs_no_restart():
    node = running(budget=Budget(0, 3600.0, 1))
    node.end(16, 16, micro_batch=6)
    node.start(2)
    node.end(16, 16)

    assert [message.micro_batch_max for message in node.told(Ready)] == [None, 3, 1]
    node.start(3)
    node.end(16, 16)
    assert [message.code for message in node.told(Verdict)] == [16]


def test_without_a_word_of_the_worker_the_share_of_the_global_batch_is_halved():
    node = running()
    node.ends = [
        WorkerEnd(0, 0, 100, 1, 0.0, None, "torch.OutOfMemoryError: CUDA out of memory."),
        WorkerEnd(1, 1, 101, -15, 0.0),
    ]
    node.end()

    assert node.told(Ready)[-1].micro_batch_max == 4


def test_the_smallest_bound_of_all_nodes_holds():
    node = Node()
    node.start(micro_batch_max=2)

    starts = [command.micro_batch_max for command in node.commands if isinstance(command, StartWorkers)]
    assert starts == [2]


def test_every_word_after_the_first_round_names_the_newest_one():
    node = running()
    node.end(23, 23)

    standings = [command.standing for command in node.commands if isinstance(command, Tell)]
    assert [(standing.past_round, standing.round is not None) for standing in standings] == [
        (0, False),
        (1, True),
        (1, False),
    ]
