"""The agent of one node: takes messages, asks the conductor, and does to the workers what it says.

The workers get torchrun's variables. torch's own agent is not used: it retries user errors, blocks while it waits for
peers or for workers to end, does not see a peer fall silent, and is there only after `import torch` (docs/adr/0119).
Nothing here blocks for longer than a tick, and everything happens on the main thread.
"""

import queue
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from sam3ft_api.worker import Progress
from sam3ft_trainer.run.launcher.commands import (
    Command,
    Exit,
    Outcome,
    RaiseFlag,
    Say,
    StartWorkers,
    StopWorkers,
    Tell,
)
from sam3ft_trainer.run.launcher.conductor import Conductor
from sam3ft_trainer.run.launcher.follow import Follower, Speaker
from sam3ft_trainer.run.launcher.link import Link
from sam3ft_trainer.run.launcher.orphans import reap_strangers
from sam3ft_trainer.run.launcher.rules import State
from sam3ft_trainer.run.launcher.stop_requests import StopRequests
from sam3ft_trainer.run.launcher.workers import WorkerPlan, Workers

TICK_S = 0.05
_FOLLOWER_GRACE_S = 1.0


class NodeAgent:
    """Runs the workers of one node as the conductor says, until it has an outcome."""

    def __init__(
        self,
        conductor: Conductor,
        link: Link,
        requests: StopRequests,
        speaker: Speaker,
        *,
        plan: WorkerPlan,
        read_progress: Callable[[], Progress | None],
    ) -> None:
        """Prepare; `run` does the work, on the main thread.

        Args:
            conductor: decides.
            link: to the coordinator, started.
            requests: signals that ask to stop.
            speaker: prints for people.
            plan: what the workers are.
            read_progress: newest progress of rank 0, None when it does not run here.
        """
        self._conductor = conductor
        self._link = link
        self._requests = requests
        self._speaker = speaker
        self._plan = plan
        self._read_progress = read_progress
        self._workers: Workers | None = None
        self._follower: Follower | None = None
        self._outcome: Outcome | None = None
        self._awaited_round = False

    def run(self) -> Outcome:
        """Return the outcome; no worker and no spare is left then, nor after an error, but what outlives SIGKILL.

        Raises:
            OSError: a worker could not be started.
            WorkersSurvive: a worker did not end after SIGKILL.
        """
        with ExitStack() as ends:  # the last one first, and each of them whatever becomes of the others
            ends.callback(self._end_follower)
            if self._plan.spares is not None:
                ends.callback(self._plan.spares.close)
            ends.callback(self._close_workers)
            return self._loop()

    def _loop(self) -> Outcome:
        while self._outcome is None:
            self._take_messages()
            now_s = time.monotonic()
            while (source := self._requests.pop()) is not None:
                commands = self._conductor.on_stop_request(now_s=now_s, now_unix_s=time.time(), source=source)
                self._obey(commands)
            self._watch_workers(now_s)
            self._obey(self._conductor.on_tick(now_s=now_s))
            self._tend_spares(now_s)
            reap_strangers(self._own_pids())
        return self._outcome

    def _tend_spares(self, now_s: float) -> None:
        if self._plan.spares is None:
            return
        awaits_round = self._conductor.state in (State.PAUSED, State.READY)
        if awaits_round and not self._awaited_round:
            self._plan.spares.refill_at(now_s)  # the import needs nothing of the round: neither ranks nor peers
        self._awaited_round = awaits_round
        self._plan.spares.tick(now_s=now_s)

    def _own_pids(self) -> set[int]:
        workers = self._workers.pids if self._workers is not None else set()
        return workers if self._plan.spares is None else workers | self._plan.spares.pids

    def _take_messages(self) -> None:
        """Obey everything that has arrived, after waiting a tick for the first message."""
        try:
            message = self._link.inbox.get(timeout=TICK_S)
            while True:
                self._obey(self._conductor.on_message(message, now_s=time.monotonic()))
                message = self._link.inbox.get_nowait()
        except queue.Empty:
            return

    def _obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Tell():
                    self._link.tell(command.standing, restarts=max(0, self._conductor.restarts))
                case StartWorkers():
                    self._start(command)
                case StopWorkers():
                    if self._workers is not None:
                        self._workers.stop(force=command.force)
                case RaiseFlag():
                    self._plan.folder.raise_flag(command.flag)
                case Say():
                    self._speaker.say(command.text)
                case Exit():
                    self._outcome = self._outcome or command.outcome

    def _start(self, command: StartWorkers) -> None:
        self._end_follower()
        self._awaited_round = False
        self._workers = Workers(self._plan, command.round, command.micro_batch_max)
        if self._plan.spares is not None:
            started = self._workers
            self._plan.spares.round_started(now_s=time.monotonic(), sooner=lambda: not started.alive or started.train())
        if command.round.first_rank == 0:
            self._follower = Follower(self._plan.folder.log_file(0), start=self._workers.log_start(0))

    def _watch_workers(self, now_s: float) -> None:
        workers = self._workers
        if workers is None or not (ends := workers.poll(now_s=now_s)):
            return
        if not workers.alive:
            self._workers = None
            progress = self._read_progress()
            self._conductor.learn_commit(progress.checkpoint_step if progress is not None else None)
        self._obey(self._conductor.on_ends(ends, alive=workers.alive, now_s=now_s))

    def _close_workers(self) -> None:
        if self._workers is not None:
            self._workers.close()

    def _end_follower(self) -> None:
        if self._follower is not None:
            self._follower.end(within_s=_FOLLOWER_GRACE_S)
            self._follower = None


def free_port(address: str) -> int:
    """Return a port of this address that is free now; whoever takes it first has it, and losing it is retried.

    Raises:
        OSError: the address is not this machine's.
    """
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        return int(probe.getsockname()[1])
