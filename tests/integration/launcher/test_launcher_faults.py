"""Deaths and outages of launchers and coordinator, with real processes."""

import os
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


def test_as_pid_1_it_reaps_strangers_and_still_sees_its_worker_s_code(site: Site):
    orphan = f"{sys.executable} -c 'import os,time; os.fork() or (time.sleep(0.5), os._exit(3))' &"
    site.start_coordinator()
    worker = ("/bin/sh", "-c", f"{orphan} sleep 1.5; ls -d /proc/[0-9]* > $SAM3FT_WORK_DIR/seen; exit 11")
    node = site.start_node(command=worker, prefix=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))

    assert node.wait() == ExitCode.INVALID_DATASET
    seen = (node.work / "seen").read_text().split()
    assert "/proc/1" in seen
    assert len(seen) <= 4  # launcher, shell, ls, and nothing that nobody reaps
    assert os.getpid() != 1


def test_a_launcher_without_a_readable_config_ends_with_10(site: Site):
    site.start_coordinator()
    node = site.start_node("result=0", config={"scratch": {"no_such_knob": 1}})

    assert node.wait() == ExitCode.INVALID_CONFIG
    assert "scratch.no_such_knob" in node.termination().message
