"""Warm spares: how much sooner a group trains again, and that a worker cannot tell."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from elastic_site import GLOO_MEMBER, Group, medians_within
from launcher_site import is_alive, wait_for

from sam3ft_api.exit_codes import ExitCode
from sam3ft_trainer.run.launcher.agent import TICK_S
from sam3ft_trainer.run.launcher.spare import READY

ENVIRONMENT_WORKER = Path(__file__).with_name("environment_worker.py")
WARM_S = 2.0
"""From a death to the first step of the smaller group, without loading weights."""


def wait_spares(group: Group, *slots: int, processes: int = 1) -> None:
    """Wait until each place of these nodes has a spare that has imported everything."""
    logs = {
        slot: [group.nodes[slot].work / "logs" / f"spare-{place}.log" for place in range(processes)] for slot in slots
    }

    def are_ready(slot: int) -> bool:
        # Asked in this order: a spare's log is that of the one before, now a worker, until it has been started.
        is_there = len(spares_of(group, slot)) >= processes
        return is_there and all(log.exists() and READY in log.read_text() for log in logs[slot])

    wait_for(lambda: all(map(are_ready, slots)), what="spares that are ready")


def spares_of(group: Group, slot: int) -> list[int]:
    """Pids of the children of a launcher that are not its workers."""
    launcher, workers = group.nodes[slot].process.pid, group.workers(slot)
    stats = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    children = [int(head.split()[0]) for head, _, tail in stats if int(tail.split()[1]) == launcher]
    return [pid for pid in children if pid not in workers]


def deaths_to_training(group: Group, count: int, *, spares: bool) -> list[float]:
    """Kill rank 0's node of three again and again; return the times to the first step of the other two."""
    group.start_coordinator()
    start: dict[str, Any] = {
        "command": (sys.executable, str(GLOO_MEMBER), str(group.store)),
        "arguments": ("--warm-spares",) if spares else (),
    }
    group.start(0, 1, 2, **start)
    formed_at = group.wait_formed(0, 1, 2, event="trained")
    times = []
    while True:
        if spares:
            wait_spares(group, 1, 2)
        killed_at = group.kill(0)
        trained_at = group.wait_formed(1, 2, after=formed_at, event="trained")
        times.append(trained_at - killed_at)
        if len(times) == count:
            return times
        group.start(0, **start)
        formed_at = group.wait_formed(0, 1, 2, after=trained_at, event="trained")


def test_with_warm_spares_the_survivors_train_again_within_two_seconds(far_group: Group):
    group = far_group
    medians_within(
        {"death to training, with warm spares": WARM_S},
        lambda: {"death to training, with warm spares": deaths_to_training(group, 1, spares=True)},
        again=group.restart,
    )
    spares = [pid for slot in (1, 2) for pid in spares_of(group, slot)]
    for slot in (1, 2):
        group.kill(slot)
    wait_for(lambda: not any(is_alive(pid) for pid in spares), within_s=10, what="the end of the spares")


def test_a_node_imports_the_trainer_while_it_waits_for_the_others(group: Group):
    group.start_coordinator(nodes=2, min_nodes=2)
    group.start(0, command=())
    wait_spares(group, 0)
    (waiting,) = spares_of(group, 0)

    group.start(1, command=())

    assert group.codes(0, 1) == [ExitCode.INVALID_CONFIG] * 2, "the config document names no data"
    assert f"rank 0 of 2, pid {waiting}" in (group.nodes[0].work / "logs" / "rank-0.log").read_text()


def test_what_has_waited_in_vain_does_not_stay_beside_the_workers(group: Group):
    group.start_coordinator(nodes=2, min_nodes=2)
    group.start(0, processes=2, command=())
    wait_spares(group, 0, processes=2)
    lost, left = spares_of(group, 0)
    os.kill(lost, signal.SIGKILL)

    group.start(1, command=(sys.executable, "-c", "import time; time.sleep(600)"))

    wait_for(lambda: not is_alive(left), what="the end of the spare that had no use")
    assert not list((group.nodes[0].work / "launcher").glob("result-*")), "the workers had ended, and it with them"
    assert "rank 0 of 3" in (group.nodes[0].work / "logs" / "rank-0.log").read_text()


def test_a_node_waits_for_the_others_without_torch_where_its_workers_are_not_the_trainer(group: Group):
    group.start_coordinator(nodes=2, min_nodes=2)
    group.start(0, command=(sys.executable, str(GLOO_MEMBER), str(group.store)))
    wait_for(lambda: "node-0 is ready" in group.told(), what="a node that waits")
    time.sleep(10 * TICK_S)  # a spare would be started in the tick after that

    assert spares_of(group, 0) == []


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_deaths_to_training_with_and_without_warm_spares(group: Group):
    without = deaths_to_training(group, 5, spares=False)
    group.restart()
    print("death to training, without spares:", ", ".join(f"{value:.2f}" for value in without))
    medians_within(
        {"death to training, with warm spares": WARM_S},
        lambda: {"death to training, with warm spares": deaths_to_training(group, 5, spares=True)},
        again=group.restart,
    )


def noted(group: Group) -> list[dict[str, Any]]:
    found = (group.folder / "node-0" / "work").glob("environment-0-*.json")
    return [json.loads(path.read_text()) for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def test_a_worker_cannot_tell_whether_it_was_a_spare(group: Group):
    group.start_coordinator(nodes=1)
    command = (sys.executable, str(ENVIRONMENT_WORKER), "some", "words")
    for arguments in ((), ("--warm-spares",)):
        count = len(noted(group))
        group.start(0, processes=2, command=command, arguments=arguments)
        wait_for(lambda count=count: len(noted(group)) > count, what="a worker's notes")
        group.nodes[0].signal(signal.SIGTERM)
        assert group.codes(0) == [ExitCode.INTERRUPTED]
    cold, warm = noted(group)

    assert (cold["is_warm"], warm["is_warm"]) == (False, True)
    for name in ("MASTER_PORT", "_"):
        cold["environment"].pop(name, None)
        warm["environment"].pop(name, None)
    assert cold["environment"] == warm["environment"]
    assert (cold["argv"], cold["name"], cold["output"]) == (warm["argv"], warm["name"], warm["output"])
    assert "noted" in group.nodes[0].log(0)
    assert warm["input"] == os.devnull


NO_DEVICE = """
import importlib, torch
def asked(*_):
    raise AssertionError("a device was asked for before the worker had its place")
torch.cuda._lazy_init = torch._C._cuda_getDeviceCount = torch._C._cuda_init = asked
from sam3ft_trainer.run.launcher.spare import PRELOADED
for name in PRELOADED:
    importlib.import_module(name)
print(torch.cuda.is_initialized())
"""


def test_what_a_spare_imports_asks_for_no_device():
    answer = subprocess.run([sys.executable, "-c", NO_DEVICE], capture_output=True, text=True, check=False)

    assert (answer.stdout.strip(), answer.returncode) == ("False", 0), answer.stderr
