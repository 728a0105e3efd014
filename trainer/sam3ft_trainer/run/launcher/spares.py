"""Spares of one node: one waiting process per worker, handed its place when a round starts.

Warm spares wait beside workers that train as well; any others only while the node itself waits for a round.
Everything here is called on the main thread: the kernel ties a process's death signal to the thread that started it.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.run.launcher.child import ENV_LOG_FILE
from sam3ft_trainer.run.launcher.ends import killed_by
from sam3ft_trainer.run.launcher.processes import kill_sessions, start_session

REFILL_LATEST_S = 60.0
"""From the start of a round until new spares begin to import although the workers have not said that they train."""
SPARE_MODULE = "sam3ft_trainer.run.launcher.spare"
"""What `python -m` starts; the worker's own words follow."""


def spare_command(command: Sequence[str]) -> tuple[str, ...]:
    """Return what a spare of a worker runs.

    Raises:
        InvalidConfig: the worker's command is neither `PYTHON -m MODULE ...` nor `PYTHON FILE ...`.
    """
    python, *rest = command
    is_module = len(rest) >= 2 and rest[0] == "-m"
    is_file = bool(rest) and not rest[0].startswith("-")
    if not Path(python).name.startswith("python") or not (is_module or is_file):
        raise InvalidConfig(
            f"--warm-spares needs workers that are started by PYTHON -m MODULE or PYTHON FILE, not by {command!r}"
        )
    return (python, "-m", SPARE_MODULE, *rest)


class Spares:
    """The waiting processes of one node.

    A spare that ends by itself is told and not replaced before the next round, so that one that cannot import does not
    keep the node busy.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        places: int,
        is_warm: bool,
        environment: Mapping[str, str],
        logs: Path,
        say: Callable[[str], None],
    ) -> None:
        """Prepare; `refill_at` has them started.

        Args:
            command: what each spare runs, see `spare_command`.
            places: workers on this node.
            is_warm: there are spares beside workers that train too, not only while a round is awaited.
            environment: what must be there before torch is imported.
            logs: folder for what a spare prints before it has a place, `spare-N.log`.
            say: prints a line for people.
        """
        self._command = command
        self._places = places
        self._is_warm = is_warm
        self._environment = dict(environment)
        self._logs = logs
        self._say = say
        self._waiting: dict[int, subprocess.Popen[bytes]] = {}
        self._refill_at_s: float | None = None
        self._may_refill: Callable[[], bool] | None = None

    @property
    def pids(self) -> set[int]:
        """Those that wait, or have ended and were not noticed yet."""
        return {process.pid for process in self._waiting.values()}

    def refill_at(self, at_s: float, *, sooner: Callable[[], bool] | None = None) -> None:
        """Start what is missing when `tick` is called at this time or later; monotonic.

        Args:
            at_s: the time.
            sooner: asked at every tick before that; they are started as soon as it says yes.
        """
        self._refill_at_s, self._may_refill = at_s, sooner

    def round_started(self, *, now_s: float, sooner: Callable[[], bool]) -> None:
        """Have warm spares begin to import in time; any others that have not become workers end.

        Args:
            now_s: the time; monotonic.
            sooner: says that the workers train, or are gone. Their own start comes first: beside it, spares would take
                the cores that it needs.
        """
        if self._is_warm:
            self.refill_at(now_s + REFILL_LATEST_S, sooner=sooner)
        else:
            self.close()

    def tick(self, *, now_s: float) -> None:
        """Take note of spares that have ended, and start new ones when it is time."""
        for place, process in list(self._waiting.items()):
            if process.poll() is not None:
                _kill([self._waiting.pop(place)])  # only closes its input
                code = process.returncode
                how = killed_by(-code) if code < 0 else f"ended with {code}"
                self._say(f"spare {place} {how}; {self._log(place)} has what it wrote")
        if self._is_due(now_s):
            self._refill_at_s = None
            for place in set(range(self._places)) - set(self._waiting):
                self._waiting[place] = self._start(place)

    def _is_due(self, now_s: float) -> bool:
        if self._refill_at_s is None:
            return False
        return now_s >= self._refill_at_s or (self._may_refill is not None and self._may_refill())

    def take(self, environments: Sequence[Mapping[str, str]]) -> list[subprocess.Popen[bytes]] | None:
        """Give every spare its environment and return them in order; None when the workers must be started anew.

        One that is still importing is taken as well: it has less to do than a new process. When one is missing, or an
        environment might not fit into its pipe, whose reader may still be importing, the others stay for a later round.
        """
        lines = [json.dumps(dict(environment)).encode() + b"\n" for environment in environments]
        if any(place not in self._waiting or self._waiting[place].poll() is not None for place in range(self._places)):
            return None
        if any(len(line) > _room_bytes(self._waiting[place]) for place, line in enumerate(lines)):
            return None
        taken = [self._waiting.pop(place) for place in range(self._places)]
        try:
            for process, line in zip(taken, lines, strict=True):
                _hand_over(process, line)
        except OSError as error:
            self._say(f"a spare did not take its place: {error.strerror}")
            _kill(taken)
            return None
        return taken

    def close(self) -> None:
        """Kill those that wait."""
        _kill(list(self._waiting.values()))
        self._waiting.clear()
        self._refill_at_s = None

    def _log(self, place: int) -> Path:
        return self._logs / f"spare-{place}.log"

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        self._log(place).unlink(missing_ok=True)
        environment = {**os.environ, **self._environment, ENV_LOG_FILE: str(self._log(place))}
        return start_session(self._command, environment, stdin=subprocess.PIPE)


def _room_bytes(process: subprocess.Popen[bytes]) -> int:
    """Return what its input takes at once: 64 KiB, less for a user with very many pipes."""
    return fcntl.fcntl(process.stdin, fcntl.F_GETPIPE_SZ) if process.stdin is not None else 0


def _hand_over(process: subprocess.Popen[bytes], line: bytes) -> None:
    if process.stdin is None:
        raise BrokenPipeError("the spare has no input")
    with process.stdin as place:
        place.write(line)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    kill_sessions(processes)
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
