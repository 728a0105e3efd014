"""The launcher's decisions under a simulated clock, for the tests of its rules."""

from typing import Any

from sam3ft_api.messages import (
    CoordinatorMessage,
    Round,
)
from sam3ft_api.worker import WorkerResult
from sam3ft_trainer.run.launcher.budget import Budget
from sam3ft_trainer.run.launcher.commands import Command, Exit, Outcome, Tell
from sam3ft_trainer.run.launcher.conductor import Conductor
from sam3ft_trainer.run.launcher.ends import WorkerEnd
from sam3ft_trainer.run.launcher.rules import Rules


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
