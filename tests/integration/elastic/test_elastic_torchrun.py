"""Plain torchrun on two nodes that meet at our coordinator."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from elastic_site import GLOO_MEMBER, Group
from launcher_site import wait_for

PROCESSES = 2


def start_torchrun(group: Group, slot: int, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
    assert group.network is not None
    work = group.folder / f"torchrun-{slot}"
    work.mkdir(exist_ok=True)
    argv = ["ip", "netns", "exec", group.network.node(slot), sys.executable, "-m", "torch.distributed.run"]
    argv += ["--rdzv-backend=sam3ft", f"--rdzv-endpoint={group.ports['host']}:{group.ports['port']}"]
    argv += [f"--rdzv-conf=node=n{slot},slot={slot}", "--rdzv-id=test", f"--local-addr={group.address(slot)}"]
    argv += ["--nnodes=2", f"--nproc-per-node={PROCESSES}", "--max-restarts=3", *words]
    env = {"GLOO_SOCKET_IFNAME": "eth0", "SAM3FT_WORK_DIR": str(work)}
    env |= {"SAM3FT_FLAG_FILE": str(work / "flag"), "SAM3FT_RESULT_FILE": str(work / "result")}
    return group.spawn(argv, work / "torchrun.log", env=env), work


def starts(work: Path) -> int:
    path = work / "starts-0"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_plain_torchrun_runs_two_nodes_to_the_end(far_group: Group):
    group = far_group
    group.start_coordinator(nodes=2)
    started = [start_torchrun(group, slot, str(GLOO_MEMBER), str(group.store), "--steps", "30") for slot in (0, 1)]
    codes = [process.wait(90) for process, _ in started]

    texts = [(work / "torchrun.log").read_text() for _, work in started]
    assert codes == [0, 0], texts
    assert list(range(1, 31)) == group.steps()
    assert [1, 1] == [starts(work) for _, work in started]
    assert not any(re.search(r"Traceback", text) for text in texts)


@pytest.mark.soak
def test_plain_torchrun_goes_on_with_a_node_that_was_killed_and_came_back(far_group: Group):
    group = far_group
    group.start_coordinator(nodes=2, min_nodes=2)
    words = (str(GLOO_MEMBER), str(group.store), "--steps", "60", "--step-s", "0.1")
    (first, first_work), (second, _) = (start_torchrun(group, slot, *words) for slot in (0, 1))
    wait_for(lambda: len(group.steps()) >= 5, what="the first steps")
    second.kill()
    second.wait()
    again, _ = start_torchrun(group, 1, *words)

    assert [0, 0] == [first.wait(120), again.wait(120)], (first_work / "torchrun.log").read_text()
    assert set(range(1, 61)) == set(group.steps())
    assert starts(first_work) == 2
