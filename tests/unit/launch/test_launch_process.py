"""Processes by identity: a pid that was given away is not ours."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sam3ft_launch.local.process import ProcessIdentity, identify, is_alive, own_identity, send_signal, tether

STRANGE_NAME = """
import pathlib, time
pathlib.Path("/proc/self/comm").write_text("a) R (b")
print(flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
from sam3ft_launch.local.process import tether
child = subprocess.Popen(["sleep", "60"], preexec_fn=tether())
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def identity_of(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    identity = identify(process.pid)
    assert identity is not None
    return identity


def test_a_living_process_has_one_identity(sleeper: subprocess.Popen[bytes]):
    first, second = identify(sleeper.pid), identify(sleeper.pid)

    assert first is not None
    assert first == second


def test_the_own_identity_has_the_own_pid():
    assert os.getpid() == own_identity().pid
    assert is_alive(own_identity())


def test_a_zombie_does_not_live(sleeper: subprocess.Popen[bytes]):
    identity = identity_of(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

    assert identify(sleeper.pid) is None
    assert not is_alive(identity)


def test_a_pid_that_never_was_has_no_identity():
    assert identify(2**22 + 1) is None


def test_a_stranger_with_our_pid_is_not_signalled(sleeper: subprocess.Popen[bytes]):
    identity = identity_of(sleeper)
    earlier = identity.model_copy(update={"start_ticks": identity.start_ticks - 1})

    assert not is_alive(earlier)
    assert not send_signal(earlier, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_process_of_another_boot_is_not_signalled(sleeper: subprocess.Popen[bytes]):
    other = identity_of(sleeper).model_copy(update={"boot_id": "another"})

    assert not send_signal(other, signal.SIGKILL)
    assert sleeper.poll() is None


def test_the_right_process_is_signalled(sleeper: subprocess.Popen[bytes]):
    assert send_signal(identity_of(sleeper), signal.SIGTERM)

    assert -signal.SIGTERM == sleeper.wait(5)


def test_a_name_with_spaces_and_parentheses_does_not_confuse():
    code = (
        "import pathlib, time; pathlib.Path('/proc/self/comm').write_text('a) R (b'); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        identity = identify(process.pid)

        process.kill()
    assert identity is not None
    assert identity.start_ticks > 0


def test_a_tethered_child_dies_with_its_parent():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = identify(int(parent.stdout.readline()))
        assert child is not None

        parent.kill()

    give_up_at = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert not is_alive(child)


def test_a_child_whose_parent_died_before_the_tether_held_ends_itself(monkeypatch: pytest.MonkeyPatch):
    tie = tether()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("sam3ft_launch.local.process._LIBC", type("Libc", (), {"prctl": lambda *_: 0})())

    tie()

    assert [128 + signal.SIGKILL] == ended
