"""torch's elastic agent with our decisions: it starts and polls workers with torchrun's variables, and nothing else.

The stock loop retries user errors, blocks while it waits for peers or for workers to end, and does not see a peer fall
silent; `_invoke_run` is therefore replaced as a whole. Everything here happens on the main thread, because the kernel
ties a worker's death signal to the thread that started it, and nothing here blocks for longer than a tick.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events.api import Event, EventSource
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, SubprocessContext

from sam3ft_api.messages import Round
from sam3ft_api.worker import ENV_SIGNALS_REACH_WORKERS, Progress
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
from sam3ft_trainer.run.launcher.ends import WorkerEnd
from sam3ft_trainer.run.launcher.environment import ROLE, torchrun_environment
from sam3ft_trainer.run.launcher.files import WorkFolder
from sam3ft_trainer.run.launcher.follow import Follower, Speaker
from sam3ft_trainer.run.launcher.link import Link
from sam3ft_trainer.run.launcher.orphans import reap_strangers
from sam3ft_trainer.run.launcher.placed import PlacedRendezvous
from sam3ft_trainer.run.launcher.spares import REFILL_S, Spares
from sam3ft_trainer.run.launcher.stop_requests import StopRequests

TICK_S = 0.05
STOP_GRACE_S = 5.0
"""From SIGTERM to SIGKILL; workers keep SIGTERM's default action, so they need a fraction of it."""
_KILL_GRACE_S = 10.0
_FOLLOWER_GRACE_S = 1.0
_CHILD = Path(__file__).with_name("child.py")


class WorkersSurvive(RuntimeError):
    """A worker did not end after SIGKILL: it hangs in the kernel, and the node needs attention."""


class RankFiles(LogsSpecs):
    """Gives every worker its environment; its output is sent to its log by the worker's first code."""

    def __init__(self, folder: WorkFolder, environment: Callable[[int], dict[str, str]]) -> None:
        """Keep where things lie.

        Args:
            folder: the node's work folder.
            environment: global rank -> variables of that worker.
        """
        super().__init__(log_dir=str(folder.root))
        self._environment = environment

    @property
    def root_log_dir(self) -> str:
        """Folder of the logs."""
        return str(self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Add the variables to each worker's environment, in place; nothing is redirected here."""
        for environment in envs.values():
            environment.update(self._environment(int(environment["RANK"])))
        inherit = dict.fromkeys(envs, "")
        return LogsDest(stdouts=dict(inherit), stderrs=dict(inherit), error_files=dict(inherit))


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What the workers of this node are.

    Attributes:
        folder: the node's work folder.
        environment: (global rank, bound of the micro-batch) -> variables of that worker beyond torchrun's.
        command: what each worker runs.
        processes: how many there are.
        run_id: their TORCHELASTIC_RUN_ID.
        spares: processes that wait to become workers; None without.
    """

    folder: WorkFolder
    environment: Callable[[int, int | None], dict[str, str]]
    command: tuple[str, ...]
    processes: int
    run_id: str
    spares: Spares | None = None


@dataclass(slots=True)
class _Running:
    """The workers of the present round."""

    round: Round
    log_starts: dict[int, int]
    pids: dict[int, int]
    ends: dict[int, WorkerEnd] = field(default_factory=dict)
    next_signal_s: float | None = None
    is_killed: bool = False


class NodeAgent(LocalElasticAgent):
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
        self._placed = PlacedRendezvous(plan.run_id)
        spec = WorkerSpec(
            role=ROLE,
            local_world_size=plan.processes,
            entrypoint=sys.executable,
            args=("-I", "-S", str(_CHILD), str(os.getpid()), *plan.command),
            rdzv_handler=self._placed,
            max_restarts=0,
            monitor_interval=TICK_S,
        )
        files = RankFiles(plan.folder, lambda rank: plan.environment(rank, self._micro_batch_max))
        super().__init__(spec, files, exit_barrier_timeout=0, shutdown_timeout=int(STOP_GRACE_S))
        self._conductor = conductor
        self._link = link
        self._requests = requests
        self._speaker = speaker
        self._folder = plan.folder
        self._plan = plan
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._read_progress = read_progress
        self._micro_batch_max: int | None = None
        self._running: _Running | None = None
        self._follower: Follower | None = None
        self.outcome: Outcome | None = None

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _invoke_run(self, role: str = "trainer") -> RunResult:
        del role
        if self._plan.spares is not None:
            self._plan.spares.refill_at(time.monotonic())  # a node that waits for its first round imports meanwhile
        while self.outcome is None:
            self._take_messages()
            now_s = time.monotonic()
            while (source := self._requests.pop()) is not None:
                commands = self._conductor.on_stop_request(now_s=now_s, now_unix_s=time.time(), source=source)
                self._obey(commands)
            self._watch_workers(now_s)
            self._obey(self._conductor.on_tick(now_s=now_s))
            if self._plan.spares is not None:
                self._plan.spares.tick(now_s=now_s)
            reap_strangers(self._own_pids())
        self._end_follower()
        ranks = {worker.global_rank: None for worker in self._worker_group.workers}
        if self.outcome.code == 0:
            return RunResult(state=WorkerState.SUCCEEDED, return_values=ranks)
        return RunResult(state=WorkerState.FAILED)

    def _own_pids(self) -> set[int]:
        workers = set(self._running.pids.values()) if self._running is not None else set()
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
                    self._signal_workers(force=command.force)
                case RaiseFlag():
                    self._folder.raise_flag(command.flag)
                case Say():
                    self._speaker.say(command.text)
                case Exit():
                    self.outcome = self.outcome or command.outcome

    # --- workers -----------------------------------------------------------------------------------------------------

    def _start(self, command: StartWorkers) -> None:
        first, processes = command.round.first_rank, self._worker_group.spec.local_world_size
        self._end_follower()
        self._folder.lower_flag()
        log_starts = {place: self._folder.prepare(first + place) for place in range(processes)}
        self._micro_batch_max = command.micro_batch_max
        self._placed.place(command.round)
        self._initialize_workers(self._worker_group)
        pids = {place: int(worker.id) for place, worker in enumerate(self._worker_group.workers)}
        self._running = _Running(command.round, log_starts, pids)
        if self._plan.spares is not None:
            self._plan.spares.refill_at(time.monotonic() + REFILL_S)
        if first == 0:
            self._follower = Follower(self._folder.log_file(0), start=log_starts[0])

    def _watch_workers(self, now_s: float) -> None:
        running = self._running
        if running is None:
            return
        for place in set(running.pids) - set(running.ends):
            if (returncode := self._poll(place)) is not None:
                running.ends[place] = self._describe(running, place, returncode, now_s)
        alive = set(running.pids) - set(running.ends)
        if alive and running.next_signal_s is not None and now_s >= running.next_signal_s:
            if running.is_killed:
                raise WorkersSurvive(f"pids {[running.pids[place] for place in alive]} did not end after SIGKILL")
            self._signal_workers(force=True)
        if running.ends:
            ends = [running.ends[place] for place in sorted(running.ends)]
            if not alive:
                self._running = None
                progress = self._read_progress()
                self._conductor.learn_commit(progress.checkpoint_step if progress is not None else None)
            self._obey(self._conductor.on_ends(ends, alive=alive, now_s=now_s))

    def _poll(self, place: int) -> int | None:
        """Return the exit status of a worker that has ended, None while it runs; what it left behind is killed."""
        process = self._processes[place]
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        _signal_group(process.pid, signal.SIGKILL)  # before it is reaped: until then nobody else can have its number
        return int(process.wait())

    def _describe(self, running: _Running, place: int, returncode: int, now_s: float) -> WorkerEnd:
        rank = running.round.first_rank + place
        return WorkerEnd(
            rank=rank,
            local_rank=place,
            pid=running.pids[place],
            returncode=returncode,
            at_s=now_s,
            result=self._folder.read_result(rank),
            log_tail=self._folder.log_tail(rank, start=running.log_starts[place]),
        )

    def _signal_workers(self, *, force: bool) -> None:
        """Signal every living worker's session; SIGTERM once, SIGKILL later or at once."""
        running = self._running
        force = force or os.environ.get(ENV_SIGNALS_REACH_WORKERS) == "1"  # they ignore SIGTERM
        if running is None or running.is_killed or (running.next_signal_s is not None and not force):
            return
        running.is_killed = force
        running.next_signal_s = time.monotonic() + (_KILL_GRACE_S if force else STOP_GRACE_S)
        for place in set(running.pids) - set(running.ends):
            _signal_group(running.pids[place], signal.SIGKILL if force else signal.SIGTERM)

    def _end_follower(self) -> None:
        if self._follower is not None:
            self._follower.end(within_s=_FOLLOWER_GRACE_S)
            self._follower = None

    # --- what torch's agent calls ------------------------------------------------------------------------------------

    def _assign_worker_ranks(
        self, store: Any, group_rank: int, group_world_size: int, spec: WorkerSpec
    ) -> list[Worker]:
        """Take the places from the round: no exchange through a store, and nodes may differ in size."""
        del store, group_rank, group_world_size
        round_ = self._placed.present
        return [
            Worker(
                local_rank=place,
                global_rank=round_.first_rank + place,
                role_rank=round_.first_rank + place,
                world_size=round_.world_size,
                role_world_size=round_.world_size,
            )
            for place in range(spec.local_world_size)
        ]

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Hand the places to the spares, where all are there; else start processes as torch does."""
        spares = self._plan.spares
        taken = spares.take(self._environments()) if spares is not None else None
        if taken is not None:
            self._processes = dict(enumerate(taken))
            return {place: process.pid for place, process in self._processes.items()}
        ids = super()._start_workers(worker_group)
        if not isinstance(self._pcontext, SubprocessContext):
            raise TypeError(f"workers are subprocesses, and torch made {type(self._pcontext).__name__}")
        self._processes = {place: handler.proc for place, handler in self._pcontext.subprocess_handlers.items()}
        return dict(ids)

    def _environments(self) -> list[dict[str, str]]:
        """Return each worker's environment of the present round, as torch would make it."""
        round_, plan = self._placed.present, self._plan
        return [
            {
                **os.environ,
                **torchrun_environment(round_, place, processes=plan.processes, run_id=plan.run_id, environ=os.environ),
                **plan.environment(round_.first_rank + place, self._micro_batch_max),
            }
            for place in range(plan.processes)
        ]

    def _construct_event(self, state: str, source: EventSource, *_args: Any, **_kwargs: Any) -> Event:
        """Leave out the full host name of torch's events: looking it up asks a name server and may block."""
        return Event(f"torchelastic.worker.status.{state}", source=source, metadata={})

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        del worker_group
        self._signal_workers(force=False)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGKILL, timeout: int = 5) -> None:
        """Kill whatever still runs; only an error of the launcher itself leaves anything."""
        del death_sig
        if self._plan.spares is not None:
            self._plan.spares.close()
        for process in self._processes.values():
            if process.returncode is None:
                _signal_group(process.pid, signal.SIGKILL)
        if self._pcontext is not None:
            self._pcontext.close(signal.SIGKILL, timeout)


def free_port(address: str) -> int:
    """Return a port of this address that is free now; whoever takes it first has it, and losing it is retried.

    Raises:
        OSError: the address is not this machine's.
    """
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        return int(probe.getsockname()[1])


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the session of a worker that has not been reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
