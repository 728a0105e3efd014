"""Deaths and outages of launchers and coordinator, with real processes."""

import signal
import sys
import time

from launcher_site import Site, is_alive, wait_for

from sam3ft_api.exit_codes import ExitCode


def test_a_killed_launcher_leaves_no_worker(site: Site):
    site.start_coordinator()
    node = site.start_node("deaf,sleep=200", arguments=("--nproc", "2"))
    pids = [node.wait_for_starts(1, rank)[0]["pid"] for rank in (0, 1)]
    node.signal(signal.SIGKILL)
    node.wait()

    wait_for(lambda: not any(is_alive(pid) for pid in pids), within_s=10, what="the end of the workers")


def test_a_coordinator_that_is_restarted_or_stopped_does_not_stop_training(site: Site):
    site.start_coordinator()
    node = site.start_node("commit=5,until-flag")
    pid = node.wait_for_starts(1)[0]["pid"]
    assert site.coordinator is not None
    site.coordinator.kill()
    site.coordinator.wait()
    time.sleep(1.0)
    site.start_coordinator(port=site.ports["port"])
    wait_for(lambda: site.progress()["state"] == "running", what="the adoption of the running round")
    site.coordinator.send_signal(signal.SIGSTOP)
    time.sleep(4.5)
    site.coordinator.send_signal(signal.SIGCONT)
    wait_for(lambda: site.progress()["progress"] is not None, what="the relayed progress")

    assert site.progress()["commit_step"] == 5
    assert is_alive(pid)
    node.signal(signal.SIGTERM)
    assert node.wait() == ExitCode.INTERRUPTED
    assert len(node.starts()) == 1


def test_a_launcher_with_another_token_is_refused_and_ends_alone(site: Site):
    site.start_coordinator()
    node = site.start_node("result=0", token="not-the-token-of-this-attempt")  # noqa: S106 - guards nothing

    assert node.wait() == ExitCode.FENCED
    assert "token" in node.termination().message
    assert node.starts() == []
    assert site.progress()["nodes"] == []


def test_a_request_to_stop_is_honoured_while_the_coordinator_is_away(site: Site):
    site.start_coordinator()
    node = site.start_node("until-flag")
    node.wait_for_starts(1)
    assert site.coordinator is not None
    site.coordinator.send_signal(signal.SIGSTOP)
    node.signal(signal.SIGTERM)

    assert node.wait(within_s=30) == ExitCode.INTERRUPTED


ORPHANING = """
import os, sys, time
from pathlib import Path
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.5)
    os._exit(3)
os.wait()
time.sleep(0.2)

def children_of(parent):
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    return sum(int(fields[1]) == parent for fields in stats)

before = children_of(os.getppid())
time.sleep(1.5)
Path(os.environ["SAM3FT_WORK_DIR"], "children").write_text(f"{before} {children_of(os.getppid())}")
sys.exit(11)
"""
AS_PARENT_OF_ORPHANS = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def test_orphans_are_reaped_and_a_worker_s_code_is_still_seen(site: Site):
    """PR_SET_CHILD_SUBREAPER (36) makes the launcher the parent of orphans, as PID 1 of a container is."""
    site.start_coordinator()
    node = site.start_node(
        command=(sys.executable, "-c", ORPHANING), prefix=(sys.executable, "-c", AS_PARENT_OF_ORPHANS)
    )

    assert node.wait() == ExitCode.INVALID_DATASET
    assert (node.work / "children").read_text() == "2 1"


def test_a_launcher_without_a_readable_config_ends_with_10(site: Site):
    site.start_coordinator()
    node = site.start_node("result=0", config={"scratch": {"no_such_knob": 1}})

    assert node.wait() == ExitCode.INVALID_CONFIG
    assert "scratch.no_such_knob" in node.termination().message
