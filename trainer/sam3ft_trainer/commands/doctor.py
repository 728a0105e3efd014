"""`doctor`: what this machine has for training, or what a store can do, as a table or JSON."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil

from sam3ft_api.storage import DEFAULT_PROFILE
from sam3ft_trainer.commands.doctor_store import inspect_store
from sam3ft_trainer.commands.edge import add_output_option

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "safetensors",
    "obstore",
    "hydra-core",
    "faster-coco-eval",
    "numpy",
)
GIB = 1 << 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("address", nargs="?", help="folder or bucket to try instead of this machine")
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="storage profile by which the bucket is reached")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the facts; returns 1 when a needed library is missing, 13 when a store cannot hold checkpoints."""
    if arguments.address is not None:
        return inspect_store(arguments.address, profile=arguments.profile, output=arguments.output)
    facts = inspect()
    if arguments.output == "json":
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        for name, value in _lines(facts):
            sys.stdout.write(f"{name:<18} {value}\n")
    return 1 if any(version is None for version in facts["libraries"].values()) else 0


def inspect() -> dict[str, Any]:
    """Return versions, cores, memory, disk and accelerators of this machine, as JSON values.

    Sizes are in bytes. A library that is not installed has the version None.
    """
    memory = psutil.virtual_memory()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "devices": [],
        "cuda": None,
    }
    if facts["libraries"]["torch"] is not None:
        facts["cuda"], facts["devices"] = _accelerators()
    return facts


def _accelerators() -> tuple[str | None, list[dict[str, Any]]]:
    import torch  # noqa: PLC0415 - optional at this point: doctor must run without it

    if not torch.cuda.is_available():
        return torch.version.cuda, []
    devices = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        devices.append(
            {
                "name": torch.cuda.get_device_name(index),
                "memory_bytes": total,
                "memory_free_bytes": free,
                "capability": f"{major}.{minor}",
                "bf16": torch.cuda.is_bf16_supported(),
            }
        )
    return torch.version.cuda, devices


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("python", facts["python"]),
        ("system", facts["system"]),
        ("cores", str(facts["cores"])),
        ("memory", f"{facts['memory_free_bytes'] / GIB:.1f} of {facts['memory_bytes'] / GIB:.1f} GiB free"),
        ("disk here", f"{facts['disk_free_bytes'] / GIB:.1f} GiB free"),
    ]
    lines += [(name, version or "MISSING: make install") for name, version in facts["libraries"].items()]
    if not facts["devices"]:
        lines.append(("accelerator", "none; training runs on the CPU"))
    for device in facts["devices"]:
        memory = f"{device['memory_free_bytes'] / GIB:.1f} of {device['memory_bytes'] / GIB:.1f} GiB free"
        lines.append(("accelerator", f"{device['name']}, {memory}, bf16 {'yes' if device['bf16'] else 'no: use fp16'}"))
    return lines
