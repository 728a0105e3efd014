"""Accelerators of this machine, counted without loading a driver library."""

import re
from collections.abc import Mapping
from pathlib import Path


def num_gpus(environment: Mapping[str, str], *, devices: Path = Path("/dev")) -> int:
    """Return how many NVIDIA devices a process with this environment would see.

    Args:
        environment: read for CUDA_VISIBLE_DEVICES, which may hide some.
        devices: folder of the device nodes.
    """
    present = sum(1 for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia[0-9]+", path.name))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    # As CUDA reads it: the list ends at the first entry that is no device.
    named = 0
    for entry in visible.split(","):
        if not re.fullmatch(r"\s*([0-9]+|GPU-\S+|MIG-\S+)\s*", entry):
            break
        named += 1
    return min(present, named) if present else 0


def choose_processes(*, asked: int | None, gpus_per_node: int, gpus_here: int) -> int:
    """Return how many worker processes a local run gets.

    Args:
        asked: `--nproc`, which decides when it is given.
        gpus_per_node: the file's `workers.gpusPerNode`, an upper bound meant for a cluster.
        gpus_here: devices of this machine; without any, one process uses all cores.
    """
    if asked is not None:
        return asked
    return max(1, min(gpus_per_node, gpus_here))
