"""The rules of membership as a state machine: events and the time in, actions out; no socket, no clock, no task.

All times are seconds of one monotonic clock, the coordinator's own, so clocks of nodes are never compared.
"""

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.messages import (
    Complete,
    CoordinatorMessage,
    Done,
    Down,
    Heartbeat,
    Hello,
    LauncherMessage,
    Leave,
    Pong,
    Ready,
    Refused,
    Regroup,
    Stop,
    Verdict,
)
from sam3ft_api.worker import Progress
from sam3ft_launch.coordinator.absence import absence, silent_nodes
from sam3ft_launch.coordinator.events import Departed, Departure, Event, Formed, Joined
from sam3ft_launch.coordinator.roster import (
    Action,
    Close,
    FailureLog,
    Formation,
    Node,
    NodeState,
    Note,
    Send,
    cause_of_end,
    cause_of_start,
    clash,
    excuse,
    in_state,
    keeps_waiting,
    round_messages,
)
from sam3ft_launch.coordinator.settings import Settings


class Rounds:
    """Membership of one attempt.

    Every method that takes an event returns what must be done because of it, in order. `tick` must be called every
    `settings.tick_s`; all decisions that wait for time or for a set of nodes are made there or with the event that
    completes the set.

    Attributes:
        nodes: connected and introduced nodes, by name.
        formation: the newest round, None before the first.
        verdict: the first verdict, None while there is none.
        complete: the run is finished.
        commit_step: step of the newest commit that any node has told.
        progress: what the launcher of rank 0 has last relayed.
        failures: the newest failures, oldest first.
    """

    def __init__(self, settings: Settings, *, now_s: float) -> None:
        """Begin without any node; `now_s` starts the time in which running members may be adopted."""
        self.settings = settings
        self.nodes: dict[str, Node] = {}
        self.formation: Formation | None = None
        self.verdict: Verdict | None = None
        self.complete = False
        self.commit_step: int | None = None
        self.progress: Progress | None = None
        self.failures = FailureLog()
        self._adopting_until_s = now_s + settings.adoption_s
        self._forming_since_s: float | None = None
        self._last_event_s = now_s
        self._highest_round = 0
        self._superseded: set[str] = set()
        self._actions: list[Action] = []

    def forming_s(self, now_s: float) -> float:
        """Return for how long ready nodes have waited for a round while nobody ran; 0 when none does."""
        return 0.0 if self._forming_since_s is None else max(0.0, now_s - self._forming_since_s)

    # --- events ------------------------------------------------------------------------------------------------------

    def hello(self, peer: int, hello: Hello, *, now_s: float) -> list[Action]:
        """Admit a launcher whose token and attempt are right; connection `peer` is its now."""
        self._advance(now_s)
        if self._tell_the_end(peer):
            return self._flush()
        if (problem := clash(hello, self.nodes.values())) is not None:
            self._send(peer, Refused(reason=problem))
            self._act(Close(peer, problem))
            return self._flush()
        if not self._take_slot(peer, hello, now_s):
            return self._flush()
        node = Node(hello, peer, NodeState.CONNECTED, since_s=now_s, seen_s=now_s)
        self.nodes[hello.node] = node
        self._highest_round = max(self._highest_round, hello.round, hello.past_round)
        self._note(f"{hello.node} is here with {hello.processes} processes", Joined())
        if hello.round:
            self._adopt(node, now_s)
        self._decide(now_s)
        return self._flush()

    def received(self, peer: int, message: LauncherMessage, *, now_s: float) -> list[Action]:
        """Take a message from an introduced launcher; one from a connection that was replaced is ignored."""
        self._advance(now_s)
        node = self._node_of(peer)
        if isinstance(message, Verdict):
            # Also after somebody else's: the sender waits to hear which one counts.
            self._judge(message)
        elif node is not None:
            node.seen_s = now_s
            self._take(node, message, now_s)
        self._decide(now_s)
        return self._flush()

    def closed(self, peer: int, *, now_s: float) -> list[Action]:
        """Forget a connection that has ended."""
        self._advance(now_s)
        node = self._node_of(peer)
        if node is not None:
            del self.nodes[node.name]
            self._note(f"the connection of {node.name} has ended", Departed(Departure.CLOSED))
        self._decide(now_s)
        return self._flush()

    def tick(self, *, now_s: float) -> list[Action]:
        """Let time pass."""
        self._advance(now_s)
        for node in self._silent(now_s):
            del self.nodes[node.name]
            self._act(Close(node.peer, "silent"))
            self._note(f"{node.name} was silent for {now_s - node.seen_s:.1f} s", Departed(Departure.SILENT))
        if not self.nodes and self.formation is not None and self.formation.is_adopted:
            self._adopting_until_s = now_s + self.settings.adoption_s  # counts from the first that comes back
        self._decide(now_s)
        return self._flush()

    def _silent(self, now_s: float) -> list[Node]:
        """Return the nodes to cut off; members that are lost by that are noted in the round."""
        silent = silent_nodes(self.nodes.values(), self.settings, now_s=now_s)
        if silent and len(silent) == len(self.nodes):
            self._note("nobody is heard any more: this process may itself be cut off")
            self._await_members(now_s)
        elif self.formation is not None:
            self.formation.silent.update(node.name for node in silent)
        return silent

    # --- single messages ---------------------------------------------------------------------------------------------

    def _take(self, node: Node, message: LauncherMessage, now_s: float) -> None:
        match message:
            case Heartbeat():
                self._heartbeat(node, message)
            case Down():
                self._down(node, message, now_s)
            case Ready():
                self._ready(node, message, now_s)
            case Leave():
                self._leave(node, message, now_s)
            case Done():
                self._done(node, message, now_s)
            case _:
                del self.nodes[node.name]
                self._act(Close(node.peer, f"{message.type} is not expected here"))
                self._note(f"{node.name} sent {message.type}, which is no time for it", Departed(Departure.UNEXPECTED))

    def _heartbeat(self, node: Node, message: Heartbeat) -> None:
        node.step, node.restarts = message.step, message.restarts
        self._learn_commit(message.commit_step)
        if message.progress is not None:
            self.progress = message.progress
        self._send(node.peer, Pong(seq=message.seq, round=self.formation.number if self.formation else 0))

    def _down(self, node: Node, message: Down, now_s: float) -> None:
        self._learn_commit(message.commit_step)
        node.become(NodeState.DOWN, now_s)
        self._note(f"{node.name} is down in round {message.round} with code {message.code}")
        self.failures.remember(message.round, node.name, message)

    def _ready(self, node: Node, message: Ready, now_s: float) -> None:
        self._learn_commit(message.commit_step)
        if self.formation is not None and node.state is not NodeState.DOWN:  # which has told it
            self.failures.remember(self.formation.number, node.name, message)
        node.become(NodeState.READY, now_s, ready=message)
        self._note(f"{node.name} is ready")

    def _leave(self, node: Node, message: Leave, now_s: float) -> None:
        self._learn_commit(message.commit_step)
        if self.formation is not None and node.name in self.formation.members:
            self.formation.left[node.name] = now_s
        del self.nodes[node.name]
        self._act(Close(node.peer, "left"))
        self._note(f"{node.name} leaves: {message.reason}", Departed(Departure.LEFT))

    def _done(self, node: Node, message: Done, now_s: float) -> None:
        node.step = message.step
        node.become(NodeState.DONE, now_s)
        self._note(f"{node.name} is done")
        if self.formation is not None:
            self.formation.done.add(node.name)
        if message.complete:
            self._finish()

    # --- who holds a slot --------------------------------------------------------------------------------------------

    def _take_slot(self, peer: int, hello: Hello, now_s: float) -> bool:
        """Settle who holds the name; False when the newcomer has lost it and was told so."""
        incumbent = self.nodes.get(hello.node)
        if hello.instance in self._superseded:
            return self._supersede(peer, hello)
        if incumbent is None:
            return True
        del self.nodes[hello.node]
        if incumbent.hello.instance == hello.instance:
            self._act(Close(incumbent.peer, "connected again"))
            return True
        # Both came back to a coordinator that had seen neither: the order of arrival says nothing, their starts do.
        if now_s < self._adopting_until_s and hello.started_unix_s < incumbent.hello.started_unix_s:
            self.nodes[hello.node] = incumbent
            return self._supersede(peer, hello)
        self._supersede(incumbent.peer, incumbent.hello)
        return True

    def _supersede(self, peer: int, hello: Hello) -> bool:
        self._superseded.add(hello.instance)
        message = f"another launcher has taken the place of {hello.node}; this one ends alone"
        self._send(peer, Verdict(code=ExitCode.FENCED, message=message, node=hello.node))
        self._act(Close(peer, "superseded"))
        self._note(f"an older instance of {hello.node} was replaced", Departed(Departure.REPLACED))
        return False

    def _adopt(self, node: Node, now_s: float) -> None:
        """Take a node that already trains as a member of the running round, or stop it."""
        hello = node.hello
        present = self.formation.number if self.formation else 0
        if now_s < self._adopting_until_s and hello.round > present:
            self._stop_running("a newer round runs")
            done = {other.name for other in in_state(self.nodes.values(), NodeState.DONE)}
            self.formation = Formation(hello.round, hello.members, is_adopted=True, done=done & set(hello.members))
            self._note(f"round {hello.round} was running before this coordinator: {', '.join(hello.members)}")
        formation = self.formation
        if formation and (formation.number, formation.members) == (hello.round, hello.members):
            node.become(NodeState.RUNNING, now_s)
            if formation.stopping:
                self._send(node.peer, Stop(round=hello.round, reason="a member was lost"))
            return
        self._send(node.peer, Stop(round=hello.round, reason="this round is over"))

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, now_s: float) -> None:
        if self.verdict is not None or self.complete:
            return
        if self.formation is not None and not self.formation.stopping:
            self._watch_members(self.formation, now_s)
        if not self.complete:
            self._maybe_start(now_s)

    def _watch_members(self, formation: Formation, now_s: float) -> None:
        if formation.done.issuperset(formation.members):
            self._finish()
        elif (reason := self._loss(formation, now_s)) is not None:
            formation.ended_by = cause_of_end(formation, self.nodes)
            self._stop_running(reason)
        elif now_s >= self._adopting_until_s and keeps_waiting(formation, self.nodes.values(), self.settings.max_nodes):
            formation.regrouping = True
            self._note(f"asking round {formation.number} to end at its next commit: somebody waits")
            for node in in_state(self.nodes.values(), NodeState.RUNNING):
                self._send(node.peer, Regroup(round=formation.number, reason="a node waits to join"))

    def _loss(self, formation: Formation, now_s: float) -> str | None:
        """Return why the round cannot go on, None while it can."""
        adopting = now_s < self._adopting_until_s
        for name in formation.members:
            node = self.nodes.get(name)
            if problem := absence(formation, name, node, self.settings, now_s=now_s, adopting=adopting):
                return f"{name} {problem}"
        if formation.done and formation.left and not in_state(self.nodes.values(), NodeState.RUNNING):
            return "a member left before the run was complete"
        return None

    def _stop_running(self, reason: str) -> None:
        """Tell running nodes to stop; those that are done start again with the others."""
        formation = self.formation
        if formation is None:
            return
        self._note(f"stopping round {formation.number}: {reason}")
        for node in in_state(self.nodes.values(), NodeState.RUNNING, NodeState.DONE):
            self._send(node.peer, Stop(round=formation.number, reason=reason))
            if node.state is NodeState.DONE:
                node.become(NodeState.CONNECTED, node.since_s)

    def _maybe_start(self, now_s: float) -> None:
        waiting = in_state(self.nodes.values(), NodeState.READY)
        finishing = self.formation is not None and not self.formation.stopping and self.formation.done
        if not waiting or finishing or in_state(self.nodes.values(), NodeState.RUNNING):
            self._forming_since_s = None
            return
        self._forming_since_s = now_s if self._forming_since_s is None else self._forming_since_s
        if self._may_start(waiting, self.forming_s(now_s), now_s):
            self._start(waiting[: self.settings.max_nodes], now_s)

    def _may_start(self, waiting: list[Node], forming_s: float, now_s: float) -> bool:
        settings = self.settings
        if len(waiting) >= settings.max_nodes:
            return True
        may_be_adopted = self.formation is None or self.formation.is_adopted
        if len(waiting) < settings.min_nodes or (may_be_adopted and now_s < self._adopting_until_s):
            return False
        if self._highest_round == 0:
            return len(waiting) >= settings.nodes or forming_s >= settings.gate_deadline_s
        quiet_s = now_s - max(node.since_s for node in self.nodes.values())
        all_ready = len(waiting) == len(self.nodes)
        return (all_ready and quiet_s >= settings.settle_s) or forming_s >= settings.last_call_s

    def _start(self, members: list[Node], now_s: float) -> None:
        formed = Formed(cause_of_start(self.formation, is_first=self._highest_round == 0), self.forming_s(now_s))
        self._forming_since_s = None
        self._highest_round += 1
        messages = round_messages(members, number=self._highest_round, commit_step=self.commit_step)
        first = messages[0]
        self.formation = Formation(first.round, first.members)
        for node, message in zip(members, messages, strict=True):
            self._send(node.peer, message)
            node.become(NodeState.RUNNING, now_s)
        self._note(f"round {first.round} starts with {', '.join(first.members)}: {first.world_size} processes", formed)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _judge(self, verdict: Verdict) -> None:
        if self.complete:
            return
        if self.verdict is None:
            self.verdict = verdict
            self._note(f"verdict {verdict.code} from {verdict.node or 'the coordinator'}: {verdict.message}")
        for node in self.nodes.values():
            self._send(node.peer, self.verdict)

    def _finish(self) -> None:
        if self.verdict is not None or self.complete:
            return
        self.complete = True
        self._note("the run is complete")
        for node in self.nodes.values():
            self._send(node.peer, Complete())

    def _tell_the_end(self, peer: int) -> bool:
        if self.verdict is not None:
            self._send(peer, self.verdict)
        elif self.complete:
            self._send(peer, Complete())
        return self.verdict is not None or self.complete

    def _advance(self, now_s: float) -> None:
        late_s = now_s - self._last_event_s - self.settings.tick_s
        self._last_event_s = now_s
        if late_s > self.settings.late_s:
            self._excuse(late_s, now_s)

    def _excuse(self, late_s: float, now_s: float) -> None:
        """Forget a pause of this process, in which nobody could be heard.

        Launchers that were not answered have closed their connections and make new ones; so members may be adopted
        again, as after a restart.
        """
        self._note(f"this process was held up for {late_s:.1f} s")
        self._await_members(now_s)
        excuse(self.formation, self.nodes.values(), late_s, now_s=now_s)
        if self._forming_since_s is not None:
            self._forming_since_s += late_s

    def _await_members(self, now_s: float) -> None:
        """Give the members of the running round time to come back, as after a restart."""
        self._adopting_until_s = now_s + self.settings.adoption_s
        if self.formation is not None:
            self.formation.is_adopted = True
            self.formation.silent.clear()

    def _learn_commit(self, step: int | None) -> None:
        if step is not None:
            self.commit_step = max(step, self.commit_step or 0)

    def _node_of(self, peer: int) -> Node | None:
        return next((node for node in self.nodes.values() if node.peer == peer), None)

    def _send(self, peer: int, message: CoordinatorMessage) -> None:
        self._act(Send(peer, message))

    def _note(self, text: str, event: Event | None = None) -> None:
        self._act(Note(text, event))

    def _act(self, action: Action) -> None:
        self._actions.append(action)

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions
