"""Plain torchrun on two nodes that meet at our coordinator."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from elastic_site import GLOO_MEMBER, Group
from launcher_site import wait_for

from sam3ft_api.messages import Round
from sam3ft_trainer.run.launcher.environment import torchrun_environment

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


SHOW = "import json, os; print('ENVIRONMENT ' + json.dumps(dict(os.environ)), flush=True)"
OF_TORCHRUN_ALONE = {"TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_SIGNALS_TO_HANDLE", "OMP_NUM_THREADS"}
"""Results have files of ours, signals are the launcher's; threads are set as well, from the cores of the node."""
OWN_VALUES = {"MASTER_ADDR", "MASTER_PORT", "ROLE_NAME", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"}


def test_our_workers_get_the_variables_that_torchrun_gives(tmp_path: Path):
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(script)]
    before = {name: value for name, value in os.environ.items() if not name.startswith(("TORCH", "OMP_"))}
    answer = subprocess.run(argv, env=before, capture_output=True, text=True, check=True, timeout=120)
    shown = json.loads(answer.stdout.split("ENVIRONMENT ")[1].splitlines()[0])
    round_ = Round(
        round=1, members=("n0",), node_rank=0, first_rank=0, world_size=1, master_addr="localhost", master_port=1
    )
    ours = torchrun_environment(round_, 0, processes=1, run_id="run-1", environ={})

    given = {name for name, value in shown.items() if before.get(name) != value} - OF_TORCHRUN_ALONE
    assert given == ours.keys()
    assert [] == [(name, shown[name], ours[name]) for name in given - OWN_VALUES if shown[name] != ours[name]]
