"""The launcher's decisions with a simulated clock: no process, no socket, no sleep."""

from typing import Any

import pytest

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.messages import (
    Complete,
    CoordinatorMessage,
    Done,
    Down,
    Leave,
    Pong,
    Ready,
    Refused,
    Regroup,
    Round,
    Stop,
    Verdict,
)
from sam3ft_api.worker import FlagKind, WorkerResult
from sam3ft_trainer.run.launcher.budget import Budget
from sam3ft_trainer.run.launcher.commands import Command, Exit, Outcome, RaiseFlag, StartWorkers, StopWorkers, Tell
from sam3ft_trainer.run.launcher.conductor import Conductor
from sam3ft_trainer.run.launcher.ends import WorkerEnd
from sam3ft_trainer.run.launcher.rules import Rules, State


class Node:
    """A conductor with a clock and two workers, and a record of its commands."""

    def __init__(self, *, processes: int = 2, budget: Budget | None = None, **rules: Any) -> None:
        self.rules = Rules(
            node="n0",
            processes=processes,
            budget=budget or Budget(),
            first_micro_batch=lambda world: 16 // world,
            **rules,
        )
        self.conductor = Conductor(self.rules, offer=lambda: ("127.0.0.1", 4000))
        self.now_s = 0.0
        self.commands: list[Command] = []
        self.ends: list[WorkerEnd] = []
        self.tick()

    def take(self, commands: list[Command]) -> None:
        self.commands += commands

    def tick(self, seconds: float = 0.0) -> None:
        self.now_s += seconds
        self.take(self.conductor.on_tick(now_s=self.now_s))

    def hear(self, message: CoordinatorMessage) -> None:
        self.take(self.conductor.on_message(message, now_s=self.now_s))

    def request_stop(self) -> None:
        self.take(self.conductor.on_stop_request(now_s=self.now_s, now_unix_s=1e9, source="SIGTERM"))

    def start(self, number: int = 1, *, members: tuple[str, ...] = ("n0",), **extra: Any) -> None:
        self.ends = []
        world = self.rules.processes * len(members)
        fields: dict[str, Any] = {"node_rank": members.index("n0"), "first_rank": 0, **extra}
        self.hear(
            Round(round=number, world_size=world, master_addr="127.0.0.1", master_port=1, members=members, **fields)
        )

    def end(self, *codes: int, **told: Any) -> None:
        """End the next local ranks with these codes; a negative one is a signal without a last word."""
        for code in codes:
            place = len(self.ends)
            result = None if code < 0 else WorkerResult(code=code, rank=place, message=f"said {code}", **told)
            self.ends.append(WorkerEnd(place, place, 100 + place, code, self.now_s, result))
        alive = set(range(self.rules.processes)) - {end.local_rank for end in self.ends}
        self.take(self.conductor.on_ends(self.ends, alive=alive, now_s=self.now_s))

    def told(self, kind: type[Any]) -> list[Any]:
        tells = [command.standing.message for command in self.commands if isinstance(command, Tell)]
        return [message for message in tells if isinstance(message, kind)]

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(command, kind) for command in self.commands)

    @property
    def outcome(self) -> Outcome | None:
        return next((command.outcome for command in self.commands if isinstance(command, Exit)), None)


def running(**settings: Any) -> Node:
    node = Node(**settings)
    node.start()
    return node


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
