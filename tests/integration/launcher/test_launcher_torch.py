"""The parts that need a process group: gloo below our launcher, and plain torchrun with our rendezvous."""

import subprocess
import sys
from pathlib import Path

from launcher_site import TOKEN, Site

GLOO = Path(__file__).with_name("gloo_worker.py")


def test_two_workers_meet_in_a_gloo_group(site: Site):
    site.start_coordinator()
    node = site.start_node(str(GLOO), command=(sys.executable,), arguments=("--nproc", "2"))

    assert node.wait(within_s=120) == 0
    assert node.termination().metrics == {"sum": 3.0}


def test_plain_torchrun_meets_at_our_coordinator(site: Site):
    site.start_coordinator("--nodes", "2")
    launchers = []
    for slot in (0, 1):
        argv = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=sam3ft", "--nnodes=2"]
        argv += [f"--rdzv-endpoint=127.0.0.1:{site.ports['port']}", f"--rdzv-conf=node=n{slot},slot={slot}"]
        argv += ["--rdzv-id=test", "--nproc-per-node=1", "--local-addr=127.0.0.1", str(GLOO)]
        launchers.append(site.spawn(argv, site.folder / f"torchrun-{slot}.log", TOKEN))
    codes = [launcher.wait(120) for launcher in launchers]

    text = "".join((site.folder / f"torchrun-{slot}.log").read_text() for slot in (0, 1))
    assert codes == [0, 0], text
    assert "rank 0 got 3.0" in text
    assert "rank 1 got 3.0" in text


def test_importing_torch_s_elastic_package_finds_the_entry_point():
    program = (
        "import torch.distributed.elastic.rendezvous.registry as r; print('sam3ft' in r.handler_registry._registry)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert (answer.stdout.strip(), answer.stderr) == ("True", "")
