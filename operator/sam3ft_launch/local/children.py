"""The two processes below a supervisor: each dies with it, whatever ends it."""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO

from sam3ft_api.errors import Sam3ftError
from sam3ft_api.worker import ENV_TOKEN
from sam3ft_launch.local.process import ProcessIdentity, identify, shell_code, tether
from sam3ft_launch.local.submission import HOST, LocalSubmission

STOP_GRACE_S = 5.0
_POLL_S = 0.02
_COORDINATOR_START_S = 30.0
_COORDINATOR_PAUSE_S = 1.0


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], output: IO[bytes], keep_open: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a child that the kernel kills when this process dies; call from the main thread.

    Args:
        argv: command line.
        env: added to this process's environment.
        output: where its standard output and error go.
        keep_open: descriptors that the child inherits.
    """
    return subprocess.Popen(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=keep_open,
        preexec_fn=tether(),  # noqa: PLW1509 - the supervisor has one thread, so the child cannot inherit a held lock
    )


def stop(process: subprocess.Popen[bytes], *, grace_s: float = STOP_GRACE_S) -> None:
    """End a child: SIGTERM, then SIGKILL after `grace_s` seconds; nothing happens when it has ended."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Coordinator:
    """The run's coordinator; started again at the same port when it dies, because launchers reconnect to it."""

    def __init__(self, submission: LocalSubmission, *, token: str) -> None:
        """Prepare; nothing is started.

        Args:
            submission: what runs.
            token: secret of the attempt.
        """
        self._submission = submission
        self._folder = submission.folder
        self._env = {ENV_TOKEN: token}
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._last_start_s = -math.inf

    def ensure_running(self) -> bool:
        """Start it if it does not run, at most once a second; return True when it was started by this call.

        Raises:
            Sam3ftError: a first start did not come up within 30 s; the message names its log.
        """
        if self._process is not None and self._process.poll() is None:
            return False
        if time.monotonic() - self._last_start_s < _COORDINATOR_PAUSE_S:
            return False
        self._last_start_s = time.monotonic()
        self._folder.coordinator_port.unlink(missing_ok=True)
        with self._folder.coordinator_log.open("ab") as output:
            argv = self._submission.coordinator_argv(self._port)
            self._process = spawn(argv, env=self._env, output=output)
        if self._port == 0:
            self._port = self._wait_for_port(self._process)
        return True

    @property
    def address(self) -> str:
        """HOST:PORT at which it listens, over restarts."""
        return f"{HOST}:{self._port}"

    def stop(self) -> None:
        """End it; nothing happens when it has ended."""
        if self._process is not None:
            stop(self._process)

    def _wait_for_port(self, process: subprocess.Popen[bytes]) -> int:
        give_up_at = time.monotonic() + _COORDINATOR_START_S
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                return int(json.loads(self._folder.coordinator_port.read_bytes())["port"])
            except FileNotFoundError:
                time.sleep(_POLL_S)
        raise Sam3ftError(
            f"the coordinator did not come up within {_COORDINATOR_START_S:.0f} s (exit status {process.poll()}); "
            f"its log is {self._folder.coordinator_log}"
        )


class Launcher:
    """The run's launcher, one at a time."""

    def __init__(self, submission: LocalSubmission, *, token: str, lock: int, output: IO[bytes]) -> None:
        """Prepare; nothing is started.

        Args:
            submission: what runs.
            token: secret of the attempt.
            lock: descriptor of the run folder's lock; inherited, so that a dying launcher keeps strangers out.
            output: the run's log.
        """
        self._submission = submission
        self._folder = submission.folder
        self._lock = lock
        self._output = output
        self._env = {ENV_TOKEN: token}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str) -> None:
        """Start it against the coordinator at `address`."""
        self._folder.last_word.unlink(missing_ok=True)
        self._process = spawn(
            self._submission.launcher_argv(address),
            env={**self._submission.env, **self._env},
            output=self._output,
            keep_open=(self._lock,),
        )

    @property
    def identity(self) -> ProcessIdentity | None:
        """The living launcher, None when none lives."""
        return None if self._process is None else identify(self._process.pid)

    def poll(self) -> int | None:
        """Return its exit status as a shell sees it, None while it runs or before the first start."""
        code = None if self._process is None else self._process.poll()
        return None if code is None else shell_code(code)

    def signal(self, number: signal.Signals) -> None:
        """Signal it; nothing happens when it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, its workers with it, and wait for the end."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
