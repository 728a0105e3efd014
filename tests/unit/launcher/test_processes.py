"""Children that lead sessions of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam3ft_trainer.run.launcher import processes
from sam3ft_trainer.run.launcher.processes import kill_sessions

SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)")


def start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(SLEEP, start_new_session=True)


def test_a_session_is_killed_and_reaped_and_one_that_was_reaped_is_left_alone():
    ended = subprocess.Popen((*SLEEP[:-1], "pass"), start_new_session=True)
    ended.wait()
    with start() as running:
        kill_sessions([ended, running])

        assert (0, -signal.SIGKILL) == (ended.returncode, running.returncode)
        assert not Path(f"/proc/{running.pid}").exists()


def test_what_outlives_sigkill_is_waited_for_once_for_all(monkeypatch: pytest.MonkeyPatch):
    # A process that hangs in the kernel cannot be made here: the signal is kept from these.
    with start() as first, start() as second:
        with monkeypatch.context() as patched:
            patched.setattr(processes, "signal_session", lambda *_: None)
            begun_s = time.monotonic()
            kill_sessions([first, second], within_s=0.5)
            took_s = time.monotonic() - begun_s
        kill_sessions([first, second])

    assert 0.5 <= took_s < 0.95
