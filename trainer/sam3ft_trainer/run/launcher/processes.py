"""Sessions of the launcher's own children: how they are started, signalled, and killed within a bound."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

KILL_GRACE_S = 10.0
"""What hangs in the kernel outlives SIGKILL; nobody waits longer for it."""
_CHILD = Path(__file__).with_name("child.py")


def start_session(command: Sequence[str], environment: Mapping[str, str], *, stdin: int) -> subprocess.Popen[bytes]:
    """Start a command that ends with this thread and writes to the log that its environment names.

    Args:
        command: a worker, or a spare of one.
        environment: all of it, with `child.ENV_LOG_FILE`.
        stdin: `subprocess.DEVNULL` or `subprocess.PIPE`.

    Raises:
        OSError: the process cannot be started.
    """
    argv = [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid()), *command]
    return subprocess.Popen(argv, env=environment, stdin=stdin, start_new_session=True)


def signal_session(pid: int, number: signal.Signals) -> None:
    """Signal the session of a child that has not been reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def kill_sessions(processes: Sequence[subprocess.Popen[bytes]], *, within_s: float = KILL_GRACE_S) -> None:
    """Kill those that have not been reaped, with all that they have started, and wait for them.

    Args:
        processes: each leads a session of its own.
        within_s: the longest wait for all of them together, s.
    """
    left = [process for process in processes if process.returncode is None]
    for process in left:
        signal_session(process.pid, signal.SIGKILL)
    end_s = time.monotonic() + within_s
    for process in left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end_s - time.monotonic()))
