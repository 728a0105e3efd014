"""The coordinator's state machine under a simulated clock, for the tests of its rules."""

from typing import Any

from sam3ft_api.messages import (
    Heartbeat,
    Hello,
    LauncherMessage,
    Pong,
    Ready,
    Round,
)
from sam3ft_launch.coordinator.roster import Action, Close, Send
from sam3ft_launch.coordinator.rounds import Rounds
from sam3ft_launch.coordinator.settings import Settings

TOKEN = "0123456789abcdef"  # noqa: S105 - guards nothing
LONG_AGO = -100.0
"""Start of a coordinator whose time for adoptions is over at 0."""


class Run:
    """A state machine with a clock, launchers that answer heartbeats, and a record of what each was sent."""

    def __init__(self, *, now_s: float = LONG_AGO, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.rounds = Rounds(self.settings, now_s=now_s)
        self.now_s = max(0.0, now_s)
        self.rounds._last_event_s = self.now_s
        self.sent: dict[int, list[Any]] = {}
        self.closed: set[int] = set()
        self.silent: set[int] = set()
        self.peers: dict[int, int] = {}

    def do(self, actions: list[Action]):
        for action in actions:
            if isinstance(action, Send):
                self.sent.setdefault(action.peer, []).append(action.message)
            elif isinstance(action, Close):
                self.closed.add(action.peer)

    def hello(self, slot: int, *, peer: int | None = None, **extra: Any):
        peer = slot if peer is None else peer
        self.peers[slot] = peer
        fields: dict[str, Any] = {"node": f"n{slot}", "instance": "a", "started_unix_s": 0.0, **extra}
        hello = Hello(slot=slot, attempt=1, token=TOKEN, addr="10.0.0.1", **fields)
        self.do(self.rounds.hello(peer, hello, now_s=self.now_s))

    def say(self, slot: int, message: LauncherMessage):
        self.do(self.rounds.received(self.peers[slot], message, now_s=self.now_s))

    def ready(self, slot: int, **extra: Any):
        self.say(slot, Ready(addr=f"10.0.0.{slot + 1}", port=4000 + slot, **extra))

    def join(self, *slots: int):
        for slot in slots:
            self.hello(slot)
            self.ready(slot)

    def drop(self, slot: int):
        self.do(self.rounds.closed(self.peers[slot], now_s=self.now_s))
        self.silent.add(slot)

    def wait(self, seconds: float):
        end = self.now_s + seconds
        while self.now_s < end - 1e-9:
            self.now_s += 0.05
            for slot in list(self.peers):
                if slot not in self.silent:
                    self.say(slot, Heartbeat(seq=1))
            self.do(self.rounds.tick(now_s=self.now_s))

    def heard(self, slot: int, kind: type[Any] | None = None) -> list[Any]:
        found = [message for message in self.sent.get(self.peers[slot], []) if not isinstance(message, Pong)]
        return found if kind is None else [message for message in found if isinstance(message, kind)]


def running(count: int, **settings: Any) -> Run:
    run = Run(**{"nodes": count, "min_nodes": 1, "max_nodes": count, **settings})
    run.join(*range(count))
    run.wait(0.3)
    assert len(run.heard(0, Round)) == 1
    return run
