"""Processes by identity, never by name or bare pid: a pid alone may belong to a stranger by the time it is used.

Linux only: /proc, pidfd and PR_SET_PDEATHSIG. An identity is (boot, pid, start time), which no other process shares.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_START_TIME_FIELD = 22 - 3  # proc(5) counts from 1; the split starts behind `pid (comm) `, at field 3
_ZOMBIE_STATES = ("Z", "X")


class ProcessIdentity(BaseModel):
    """One process of one boot.

    Attributes:
        pid: process id.
        start_ticks: start time since boot, in clock ticks, field 22 of /proc/PID/stat.
        boot_id: /proc/sys/kernel/random/boot_id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    start_ticks: int
    boot_id: str


def boot_id() -> str:
    """Return the identity of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a living process, None when there is none (a zombie does not live)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold spaces and parentheses: everything behind the last one is fields.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in _ZOMBIE_STATES:
        return None
    return ProcessIdentity(pid=pid, start_ticks=int(fields[_START_TIME_FIELD]), boot_id=boot_id())


def own_identity() -> ProcessIdentity:
    """Return the identity of this process."""
    identity = identify(os.getpid())
    if identity is None:  # pragma: no cover - a running process has an entry in /proc
        raise RuntimeError("/proc has no entry for this process; is /proc mounted?")
    return identity


def is_alive(identity: ProcessIdentity) -> bool:
    """Return True while exactly this process runs."""
    return identify(identity.pid) == identity


def send_signal(identity: ProcessIdentity, signal_number: signal.Signals) -> bool:
    """Signal exactly this process; False when it has ended, whoever has its pid now.

    The pidfd is opened first and the identity compared after, so the pid cannot change hands in between.
    """
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(pidfd, signal_number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def tether(signal_number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Return a `preexec_fn` that has the kernel signal the child when this process dies.

    The kernel ties it to the thread that forks: start tethered children from the main thread only. A parent that died
    between fork and prctl is noticed by the changed parent id.
    """
    parent_pid = os.getpid()

    def die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(128 + signal_number)

    return die_with_parent


def shell_code(returncode: int) -> int:
    """Return the exit status as a shell shows it: 128 + signal instead of a negative number."""
    return 128 - returncode if returncode < 0 else returncode


def kill_or_leave(process: "subprocess.Popen[bytes]", *, wait_s: float = 1.0) -> None:
    """Kill a child and wait for it; one that hangs in a file system is left to itself.

    Args:
        process: that may have ended already.
        wait_s: how long it is waited for.
    """
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(wait_s)
