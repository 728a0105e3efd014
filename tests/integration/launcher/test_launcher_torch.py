"""The parts that need torch: gloo below our launcher, and the entry point of our rendezvous."""

import subprocess
import sys
from pathlib import Path

from launcher_site import Site

GLOO = Path(__file__).with_name("gloo_worker.py")


def test_two_workers_meet_in_a_gloo_group(site: Site):
    site.start_coordinator()
    node = site.start_node(str(GLOO), command=(sys.executable,), arguments=("--nproc", "2"))

    assert node.wait(within_s=120) == 0
    assert node.termination().metrics == {"sum": 3.0}


def test_importing_torch_s_elastic_package_finds_the_entry_point():
    program = (
        "import torch.distributed.elastic.rendezvous.registry as r; print('sam3ft' in r.handler_registry._registry)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert (answer.stdout.strip(), answer.stderr) == ("True", "")
