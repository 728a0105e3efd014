"""The launcher's decisions as a state machine: messages, signals, ends of workers and the time in, commands out.

No process, socket or clock is touched here. Times are seconds of one monotonic clock; only the deadline in a flag is
wall clock, because workers read it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.messages import (
    VERDICT_CODES,
    Complete,
    CoordinatorMessage,
    LauncherMessage,
    Leave,
    Refused,
    Regroup,
    Round,
    Stop,
    Verdict,
)
from sam3ft_api.worker import Flag, FlagKind
from sam3ft_trainer.run.launcher.budget import History
from sam3ft_trainer.run.launcher.commands import (
    Command,
    Exit,
    Outcome,
    RaiseFlag,
    Say,
    Standing,
    StartWorkers,
    StopWorkers,
    Tell,
)
from sam3ft_trainer.run.launcher.ends import GroupEnd, WorkerEnd, judge
from sam3ft_trainer.run.launcher.reports import (
    describe,
    done_message,
    down_message,
    final_code,
    outcome_of,
    ready_message,
    with_facts,
)
from sam3ft_trainer.run.launcher.rules import Rules, State

_FREE = frozenset({ExitCode.PEER_LOST, ExitCode.REGROUP, ExitCode.TERMINATED})


class Conductor:
    """Decides what one node does.

    Every `on_...` method returns the commands that follow from one event. `on_ends` must see every end of the present
    round before it is called without living workers.

    Attributes:
        state: where the node stands.
        round: the newest round that this node took part in.
        restarts: starts of the workers beyond the first.
    """

    def __init__(self, rules: Rules, *, offer: Callable[[], tuple[str, int]]) -> None:
        """Begin without workers.

        Args:
            rules: settings.
            offer: returns an address of this node and a free port on it, for rank 0's process group.
        """
        self.state = State.PAUSED
        self.round: Round | None = None
        self.restarts = -1
        self._rules = rules
        self._offer = offer
        self._history = History(rules.budget)
        self._micro_batch_max = rules.micro_batch_max
        self._end: GroupEnd | None = None
        self._pause_until_s = 0.0
        self._deadline_s: float | None = None
        self._evicting = False
        self._num_requests = 0
        self._outcome: Outcome | None = None
        self._alive: frozenset[int] = frozenset()
        self._stopped: frozenset[int] = frozenset()
        self._refused_since_s: float | None = None
        self._commands: list[Command] = []

    # --- events ------------------------------------------------------------------------------------------------------

    def on_message(self, message: CoordinatorMessage, *, now_s: float) -> list[Command]:
        """React to the coordinator."""
        if not isinstance(message, Refused):
            self._refused_since_s = None
        match message:
            case Round():
                self._on_round(message)
            case Stop():
                self._on_stop(message, now_s)
            case Regroup():
                self._on_regroup(message)
            case Verdict():
                self._on_verdict(message)
            case Complete():
                self._on_complete(now_s)
            case Refused():
                self._on_refused(message, now_s)
            case _:
                pass
        return self._flush()

    def on_stop_request(self, *, now_s: float, now_unix_s: float, source: str) -> list[Command]:
        """React to SIGTERM, SIGINT and the like: the first asks the workers to save, the second ends them at once."""
        self._num_requests += 1
        if self._outcome is not None:
            self._stop(force=True)
        elif self._num_requests > 1:
            self._say(f"{source} again: ending at once, without a checkpoint")
            self._conclude_with(
                Outcome(ExitCode.TERMINATED, f"{source} came twice; the workers were killed before they could save."),
                Leave(reason="killed"),
                force=True,
            )
        elif not self._alive:
            self._say(f"{source}: no worker runs, leaving")
            self._conclude_with(
                self._outcome_of(ExitCode.INTERRUPTED, "Asked to stop while no worker was running."),
                Leave(reason=f"{source} on this node"),
            )
        else:
            grace_s = self._rules.eviction_grace_s
            self._say(f"{source}: saving a checkpoint, for at most {grace_s:g} s; once more ends at once")
            self._evicting = True
            self._deadline_s = now_s + grace_s
            self._act(RaiseFlag(Flag(kind=FlagKind.EVICT, deadline_unix_s=now_unix_s + grace_s)))
        return self._flush()

    def on_ends(self, ends: Sequence[WorkerEnd], *, alive: Collection[int], now_s: float) -> list[Command]:
        """React to the ends of workers.

        Args:
            ends: all ends of the present round so far.
            alive: local ranks that still run.
            now_s: the time.
        """
        self._alive = frozenset(alive)
        if self.state in (State.RUNNING, State.ENDING) and ends:
            end = judge(ends, stopped_by_us=self._stopped)
            if not alive:
                self._all_ended(end, now_s)
            elif self.state is State.RUNNING and end.code != 0:
                self._first_failed(end, now_s)
        return self._flush()

    def on_tick(self, *, now_s: float) -> list[Command]:
        """Let time pass."""
        deadline_s = self._deadline_s
        if self.state is State.PAUSED and self._outcome is None and now_s >= self._pause_until_s:
            self._offer_to_run()
        elif deadline_s is not None and now_s >= deadline_s:
            self._deadline_s = None
            if self.state is State.OVER:
                self._exit()
            elif self._alive:
                self._stop()
        return self._flush()

    def learn_commit(self, step: int | None) -> None:
        """Take note of the newest commit; repeated ones change nothing."""
        self._history.learn_commit(step)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _on_round(self, message: Round) -> None:
        if self.state is not State.READY:
            return
        self._history.learn_commit(message.commit_step)
        if self.round is not None and not set(self.round.members) <= set(message.members):
            self._history.begin_anew()
        bounds = [bound for bound in (self._micro_batch_max, message.micro_batch_max) if bound is not None]
        self._micro_batch_max = min(bounds, default=None)
        self.round = message
        self.state = State.RUNNING
        self.restarts += 1
        self._alive = frozenset(range(self._rules.processes))
        self._stopped = frozenset()
        self._deadline_s = None
        self._tell(None, round_=message)
        self._act(StartWorkers(message, self._micro_batch_max))

    def _on_stop(self, message: Stop, now_s: float) -> None:
        if self.round is None or message.round != self.round.round:
            return
        if self.state in (State.RUNNING, State.ENDING):
            self._say(f"round {message.round} ends: {message.reason}")
            self._stop()
        elif self.state is State.DONE:
            self._say(f"round {message.round} starts again: {message.reason}")
            self._pause(now_s, 0.0)

    def _on_regroup(self, message: Regroup) -> None:
        is_ours = self.round is not None and message.round == self.round.round
        if is_ours and self.state is State.RUNNING and not self._evicting:
            self._act(RaiseFlag(Flag(kind=FlagKind.REGROUP)))

    def _on_verdict(self, message: Verdict) -> None:
        if self._outcome is not None and self._outcome.code == message.code:
            # The echo of our own, whose report knows more.
            outcome = self._outcome
        else:
            outcome = Outcome(
                message.code,
                message.message or rule_for(message.code).advice,
                node=message.node,
                rank=message.rank,
                step=message.step,
            )
        self._outcome = outcome
        self._finish(force=False)

    def _on_complete(self, now_s: float) -> None:
        if self._outcome is not None and self._outcome.code == ExitCode.SUCCEEDED:
            return
        self._outcome = self._outcome_of(ExitCode.SUCCEEDED, "The run is complete.")
        if self._alive:
            self._deadline_s = now_s + self._rules.complete_grace_s
        else:
            self._exit()

    def _on_refused(self, message: Refused, now_s: float) -> None:
        if self._refused_since_s is None:
            self._refused_since_s = now_s
            self._say(f"the coordinator refuses this launcher: {message.reason}")
        if now_s - self._refused_since_s >= self._rules.refused_s and self._outcome is None and not self._alive:
            self._outcome = Outcome(ExitCode.FENCED, f"The coordinator refused this launcher: {message.reason}")
            self._exit()

    # --- ends of workers ---------------------------------------------------------------------------------------------

    def _first_failed(self, end: GroupEnd, now_s: float) -> None:
        """Some worker failed and others live: end them, at once or after a while in which they may say more."""
        code = end.code
        if code in (ExitCode.REGROUP, ExitCode.INTERRUPTED):
            self._hurry(now_s + self._rules.saving_grace_s)
        elif code == ExitCode.PEER_LOST:
            self._hurry(now_s + self._rules.peer_lost_grace_s)
        else:
            self._tell_down(end)
            self._stop()

    def _all_ended(self, end: GroupEnd, now_s: float) -> None:
        self._end = end
        self._deadline_s = None
        self._history.learn_commit(end.checkpoint_step)
        if self._outcome is not None:
            self._outcome = with_facts(self._outcome, end)
            self._finish(force=False)
        elif end.code == ExitCode.SUCCEEDED:
            self._done(end)
        elif end.is_out_of_memory:
            self._halve(end, now_s)
        elif rule_for(end.code).is_verdict:
            self._give_verdict(end.code, "", now_s)
        elif end.code == ExitCode.FENCED:
            self._conclude_with(self._outcome_of(ExitCode.FENCED), Leave(reason="fenced"))
        elif self._evicting or end.code == ExitCode.INTERRUPTED:
            self._evicted(end)
        else:
            self._try_again(end, now_s)

    def _done(self, end: GroupEnd) -> None:
        self.state = State.DONE
        has_rank_0 = self.round is not None and self.round.first_rank == 0
        self._tell(done_message(end, has_rank_0=has_rank_0))

    def _halve(self, end: GroupEnd, now_s: float) -> None:
        world_size = self.round.world_size if self.round is not None else self._rules.processes
        known = [size for size in (end.micro_batch, self._micro_batch_max) if size is not None]
        present = min(known, default=self._rules.first_micro_batch(world_size))
        if present <= 1:
            self._give_verdict(ExitCode.OUT_OF_MEMORY, "One image at a time does not fit the device either. ", now_s)
            return
        self._micro_batch_max = present // 2
        self._say(f"{describe(end)}\nthe micro-batch goes from {present} to {self._micro_batch_max} images")
        if self._evicting:
            self._evicted(end)
        else:
            self._pause(now_s, 0.0)

    def _evicted(self, end: GroupEnd) -> None:
        has_saved = end.code == ExitCode.INTERRUPTED
        if has_saved:
            outcome = self._outcome_of(ExitCode.INTERRUPTED, f"Asked to stop; saved at step {end.step}.")
        elif end.code in _FREE or end.is_out_of_memory:
            outcome = self._outcome_of(
                ExitCode.TERMINATED, "Asked to stop, and ended before a checkpoint could be saved."
            )
        else:
            outcome = self._outcome_of(end.code)
        commit = end.checkpoint_step if has_saved else None
        self._conclude_with(outcome, Leave(commit_step=commit, reason="asked to stop"))

    def _try_again(self, end: GroupEnd, now_s: float) -> None:
        if end.first is not None:
            self._say(describe(end))
        spent = self._history.spend(end.code, now_s=now_s)
        if (spent is not None or self._history.is_nearly_stuck) and self._rules.can_spare(end.code, self.round):
            outcome = self._outcome_of(final_code(end.code, is_alone=False), "The others go on without this node. ")
            self._conclude_with(outcome, down_message(end, self.round) or Leave(reason=outcome.message))
            return
        if spent is not None:
            self._give_verdict(end.code, f"{spent}. ", now_s)
            return
        pause_s = self._history.pause_s(end.code)
        if pause_s > 0:
            self._say(f"starting the workers again in {pause_s:g} s")
            self._tell_down(end)
        self._pause(now_s, pause_s)

    def _give_verdict(self, code: int, preface: str, now_s: float) -> None:
        """End everybody with the newest end."""
        code = final_code(code, is_alone=self.round is None or len(self.round.members) == 1)
        outcome = self._outcome_of(code, preface)
        if code not in VERDICT_CODES:
            self._conclude_with(outcome, Leave(reason=outcome.message))
            return
        self._outcome = outcome
        self.state = State.OVER
        self._deadline_s = now_s + self._rules.echo_s
        self._tell(
            Verdict(
                code=int(code), message=outcome.message, node=self._rules.node, rank=outcome.rank, step=outcome.step
            )
        )

    # --- transitions -------------------------------------------------------------------------------------------------

    def _pause(self, now_s: float, pause_s: float) -> None:
        self.state = State.PAUSED
        self._pause_until_s = now_s + pause_s
        if pause_s <= 0:
            self._offer_to_run()

    def _offer_to_run(self) -> None:
        self.state = State.READY
        address, port = self._offer()
        self._tell(ready_message(self._end, address=address, port=port, micro_batch_max=self._micro_batch_max))

    def _tell_down(self, end: GroupEnd) -> None:
        if (message := down_message(end, self.round)) is not None:
            self._tell(message)

    def _hurry(self, deadline_s: float) -> None:
        """End what is awaited now no later than `deadline_s`; one that passes earlier stays."""
        self._deadline_s = deadline_s if self._deadline_s is None else min(self._deadline_s, deadline_s)

    def _stop(self, *, force: bool = False) -> None:
        if self._alive:
            self.state = State.ENDING
            self._stopped |= self._alive
            self._act(StopWorkers(force=force))

    def _conclude_with(self, outcome: Outcome, last_word: LauncherMessage, *, force: bool = False) -> None:
        self._outcome = outcome
        self._tell(last_word)
        self._finish(force=force)

    def _finish(self, *, force: bool) -> None:
        """Exit, after the workers have ended."""
        if self._alive:
            self._stop(force=force)
        else:
            self._exit()

    def _exit(self) -> None:
        if self._outcome is not None:
            self.state = State.OVER
            self._act(Exit(replace(self._outcome, restarts=max(0, self.restarts))))

    def _outcome_of(self, code: int, preface: str = "") -> Outcome:
        return outcome_of(code, self._end, node=self._rules.node, preface=preface)

    # --- small parts -------------------------------------------------------------------------------------------------

    def _tell(self, message: LauncherMessage | None, *, round_: Round | None = None) -> None:
        past = self.round.round if self.round is not None else 0
        self._act(Tell(Standing(round=round_, message=message, past_round=past)))

    def _say(self, text: str) -> None:
        self._act(Say(text))

    def _act(self, command: Command) -> None:
        self._commands.append(command)

    def _flush(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands
