"""What the coordinator knows of nodes and of the present round; plain data without rules."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.messages import CoordinatorMessage, Down, Hello, Ready, Round
from sam3ft_launch.coordinator.events import Event, RoundCause

_NUM_FAILURES_KEPT = 10
_SAVED = frozenset({ExitCode.REGROUP, ExitCode.INTERRUPTED})
"""Codes of workers that ended at a commit that all workers of the round had agreed on."""


class NodeState(StrEnum):
    """Where one connected node stands."""

    CONNECTED = "connected"
    """Introduced, workers not running, not ready."""
    READY = "ready"
    RUNNING = "running"
    DOWN = "down"
    """A worker has failed; ready will follow."""
    DONE = "done"


@dataclass(slots=True)
class Node:
    """One connected launcher.

    Attributes:
        hello: its introduction.
        peer: number of its connection.
        state: see `NodeState`.
        since_s: when it came into that state.
        seen_s: when it was last heard.
        ready: its newest `ready`, while it is in that state.
        step: last finished optimizer step.
        restarts: starts of its workers beyond the first.
    """

    hello: Hello
    peer: int
    state: NodeState
    since_s: float
    seen_s: float
    ready: Ready | None = None
    step: int = 0
    restarts: int = 0

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.hello.node

    @property
    def has_saved(self) -> bool:
        """True when its workers ended at a commit that all workers of the round had agreed on."""
        return self.ready is not None and self.ready.code in _SAVED

    @property
    def has_failed(self) -> bool:
        """True when its workers ended by themselves, neither saved nor because of another node."""
        if self.ready is None or self.ready.code is None:
            return self.state is NodeState.DOWN
        return self.ready.code not in _SAVED and self.ready.code != ExitCode.PEER_LOST

    def become(self, state: NodeState, now_s: float, *, ready: Ready | None = None) -> None:
        """Enter a state; `ready` belongs to READY alone."""
        self.state, self.since_s, self.ready = state, now_s, ready


@dataclass(slots=True)
class Formation:
    """The newest round.

    Attributes:
        number: its number.
        members: names in rank order.
        is_adopted: this process did not see it begin, or was held up since: a member may be away for a while.
        silent: members that were cut off because they said nothing.
        ended_by: why the members have been told to stop, None while they have not.
        regrouping: the members have been asked to end at the next commit.
        done: members whose workers ended with 0.
        left: members that have left, with the time.
    """

    number: int
    members: tuple[str, ...]
    is_adopted: bool = False
    ended_by: RoundCause | None = None
    regrouping: bool = False
    silent: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    left: dict[str, float] = field(default_factory=dict)

    @property
    def stopping(self) -> bool:
        """True when a member was lost, and the others have been told to stop."""
        return self.ended_by is not None


@dataclass(frozen=True, slots=True)
class Failure:
    """The first failure of one node in one round, as it told it."""

    round: int
    node: str
    rank: int | None
    code: int
    message: str


class FailureLog(deque[Failure]):
    """The newest failures, oldest first.

    Attributes:
        counts: all failures so far, by the reason of their code; ends after a save that was asked for are none.
    """

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__(maxlen=_NUM_FAILURES_KEPT)
        self.counts: Counter[str] = Counter()

    def remember(self, round_number: int, node: str, word: Down | Ready) -> None:
        """Keep the first word about a node in a round; `ready` repeats what `down` has told.

        Args:
            round_number: round in which it failed.
            node: name of the node.
            word: what it said; one without a code is about no failure.
        """
        if word.code is None or any((past.node, past.round) == (node, round_number) for past in self):
            return
        self.append(Failure(round_number, node, word.rank, word.code, word.message))
        if word.code not in _SAVED:
            self.counts[rule_for(word.code).reason] += 1


@dataclass(frozen=True, slots=True)
class Send:
    """Write `message` to the connection `peer`."""

    peer: int
    message: CoordinatorMessage


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection `peer` once everything sent to it is written."""

    peer: int
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """A decision, for the log; with the event that it is, for the counters."""

    text: str
    event: Event | None = None


Action = Send | Close | Note


def in_state(nodes: Iterable[Node], *states: NodeState) -> list[Node]:
    """Return the nodes that are in one of the states, by slot."""
    return sorted((node for node in nodes if node.state in states), key=lambda node: node.hello.slot)


def cause_of_end(formation: Formation, nodes: Mapping[str, Node]) -> RoundCause:
    """Return why a round that cannot go on has come to that.

    Args:
        formation: the round.
        nodes: the connected ones, by name.
    """
    missing = {name for name in formation.members if name not in nodes} - formation.done
    if missing - formation.left.keys():
        return RoundCause.LOST
    if formation.left:
        return RoundCause.LEFT
    present = [nodes[name] for name in formation.members if name in nodes]
    # The end of a connection may be seen after what it does to the others.
    return RoundCause.FAILED if any(node.has_failed for node in present) else RoundCause.LOST


def cause_of_start(before: Formation | None, *, is_first: bool) -> RoundCause:
    """Return why a round begins.

    Args:
        before: the round before it, None when this process saw none.
        is_first: no launcher knows of any round before.
    """
    if before is None:
        return RoundCause.FIRST if is_first else RoundCause.OTHER
    if before.ended_by is not None:
        return before.ended_by
    if before.regrouping:
        return RoundCause.JOIN
    # The others have saved because of it, and nobody had to be stopped.
    return RoundCause.LEFT if before.left else RoundCause.OTHER


def excuse(formation: Formation | None, nodes: Iterable[Node], late_s: float, *, now_s: float) -> None:
    """Move every time that is waited from by a pause in which nobody could be heard, to now at the latest."""
    if formation is not None:
        formation.left = {name: min(now_s, at_s + late_s) for name, at_s in formation.left.items()}
    for node in nodes:
        node.seen_s = min(now_s, node.seen_s + late_s)
        node.since_s = min(now_s, node.since_s + late_s)


def keeps_waiting(formation: Formation, nodes: Iterable[Node], max_nodes: int) -> bool:
    """Return True when a node is ready to join and this round, which has room, was not asked to end for it yet."""
    if formation.regrouping or formation.done or len(formation.members) >= max_nodes:
        return False
    return any(node.name not in formation.members for node in in_state(nodes, NodeState.READY))


def clash(hello: Hello, nodes: Iterable[Node]) -> str | None:
    """Return why the name and the slot of a newcomer do not go together with the others', None when they do."""
    for node in nodes:
        if (node.name == hello.node) != (node.hello.slot == hello.slot):
            return (
                f"slot {hello.slot} of node {hello.node!r} clashes with slot {node.hello.slot} of {node.name!r}: "
                "every node needs a name and a slot of its own"
            )
    return None


def round_messages(members: Sequence[Node], *, number: int, commit_step: int | None) -> list[Round]:
    """Return what each member of a new round is told; ranks follow the order of `members`, all of them ready."""
    offers = [node.ready for node in members if node.ready is not None]
    bounds = [offer.micro_batch_max for offer in offers if offer.micro_batch_max is not None]
    sizes = [node.hello.processes for node in members]
    return [
        Round(
            round=number,
            node_rank=place,
            first_rank=sum(sizes[:place]),
            world_size=sum(sizes),
            master_addr=offers[0].addr,
            master_port=offers[0].port,
            members=tuple(node.name for node in members),
            micro_batch_max=min(bounds, default=None),
            commit_step=commit_step,
        )
        for place in range(len(members))
    ]
