"""The worker processes of one round on this node: how they are started, polled and ended.

Everything here is called on the main thread: the kernel ties a process's death signal to the thread that started it.
Nothing blocks, but `close`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sam3ft_api.messages import Round
from sam3ft_api.worker import ENV_SIGNALS_REACH_WORKERS
from sam3ft_trainer.run.launcher.ends import WorkerEnd
from sam3ft_trainer.run.launcher.environment import torchrun_environment
from sam3ft_trainer.run.launcher.files import WorkFolder
from sam3ft_trainer.run.launcher.processes import KILL_GRACE_S, kill_sessions, signal_session, start_session
from sam3ft_trainer.run.launcher.spares import Spares

STOP_GRACE_S = 5.0
"""From SIGTERM to SIGKILL; workers keep SIGTERM's default action, so they need a fraction of it."""


class WorkersSurvive(RuntimeError):
    """A worker did not end after SIGKILL: it hangs in the kernel, and the node needs attention."""


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

    def environments(
        self, round_: Round, micro_batch_max: int | None, environ: Mapping[str, str]
    ) -> list[dict[str, str]]:
        """Return each worker's whole environment in a round, by its place on this node.

        Args:
            round_: the round.
            micro_batch_max: bound of the micro-batch, None without one.
            environ: the launcher's own environment.
        """
        return [
            {
                **environ,
                **torchrun_environment(round_, place, processes=self.processes, run_id=self.run_id, environ=environ),
                **self.environment(round_.first_rank + place, micro_batch_max),
            }
            for place in range(self.processes)
        ]


class Workers:
    """The workers of one round, from their start until all have ended.

    Each runs in a session of its own, which is signalled as a whole. A place is a worker's local rank.
    """

    def __init__(self, plan: WorkerPlan, round_: Round, micro_batch_max: int | None) -> None:
        """Start them: the spares become the workers where all are there, else new processes are started.

        Args:
            plan: what they are.
            round_: the round that they train in.
            micro_batch_max: bound of their micro-batch, None without one.

        Raises:
            OSError: a process could not be started; those before it are killed.
        """
        self.round = round_
        self.ends: dict[int, WorkerEnd] = {}
        self._folder = plan.folder
        self._next_signal_s: float | None = None
        self._is_killed = False
        plan.folder.lower_flag()
        self._log_starts = [plan.folder.prepare(round_.first_rank + place) for place in range(plan.processes)]
        environments = plan.environments(round_, micro_batch_max, os.environ)
        taken = plan.spares.take(environments) if plan.spares is not None else None
        self._processes = taken if taken is not None else _start(plan.command, environments)

    @property
    def pids(self) -> set[int]:
        """Those of all workers that have not ended."""
        return {self._processes[place].pid for place in self.alive}

    @property
    def alive(self) -> set[int]:
        """Places of the workers that have not ended, as `poll` has seen."""
        return set(range(len(self._processes))) - set(self.ends)

    def train(self) -> bool:
        """Say whether each of them has finished a step, by what they have written; no, where that cannot be read."""
        ranks = (self.round.first_rank + place for place in range(len(self._processes)))
        # Not Path's method: it raises what a network file system may say for a moment.
        return all(os.path.exists(self._folder.training_file(rank)) for rank in ranks)  # noqa: PTH110

    def log_start(self, place: int) -> int:
        """Byte at which the output of a worker begins in the log of its rank."""
        return self._log_starts[place]

    def poll(self, *, now_s: float) -> list[WorkerEnd]:
        """Note who has ended, kill those that did not end in time, and return all ends, by place.

        Raises:
            WorkersSurvive: a worker is still there long after SIGKILL.
        """
        for place in self.alive:
            if (returncode := _ended(self._processes[place])) is not None:
                self.ends[place] = self._describe(place, returncode, now_s)
        if self.alive and self._next_signal_s is not None and now_s >= self._next_signal_s:
            if self._is_killed:
                raise WorkersSurvive(f"pids {sorted(self.pids)} did not end after SIGKILL")
            self.stop(force=True)
        return [self.ends[place] for place in sorted(self.ends)]

    def stop(self, *, force: bool) -> None:
        """Signal every living worker's session; SIGTERM once, SIGKILL later or at once.

        Args:
            force: SIGKILL at once.
        """
        force = force or os.environ.get(ENV_SIGNALS_REACH_WORKERS) == "1"  # they ignore SIGTERM
        if self._is_killed or (self._next_signal_s is not None and not force):
            return
        self._is_killed = force
        self._next_signal_s = time.monotonic() + (KILL_GRACE_S if force else STOP_GRACE_S)
        for pid in self.pids:
            signal_session(pid, signal.SIGKILL if force else signal.SIGTERM)

    def close(self) -> None:
        """Kill whatever still runs and wait for it, 10 s in all; only an error of the launcher itself leaves any."""
        kill_sessions(self._processes)

    def _describe(self, place: int, returncode: int, now_s: float) -> WorkerEnd:
        rank = self.round.first_rank + place
        return WorkerEnd(
            rank=rank,
            local_rank=place,
            pid=self._processes[place].pid,
            returncode=returncode,
            at_s=now_s,
            result=self._folder.read_result(rank),
            log_tail=self._folder.log_tail(rank, start=self._log_starts[place]),
        )


def _start(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []
    try:
        for environment in environments:
            process = start_session(command, environment, stdin=subprocess.DEVNULL)
            started.append(process)
    except BaseException:
        kill_sessions(started)
        raise
    return started


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status of a worker that has ended, None while it runs; what it left behind is killed."""
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return None
    signal_session(process.pid, signal.SIGKILL)  # before it is reaped: until then nobody else can have its number
    return process.wait()
