"""Whether the workers of this node will compute on a CPU, found out without torch, whose import takes seconds."""

import runpy
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_COUNT_GPUS = Path(__file__).with_name("count_gpus.py")
_ROCM_DRIVER = Path("/dev/kfd")
ANSWER_S = 60.0
"""A driver that says nothing for so long counts as one with devices: the workers meet it, and say what is wrong."""


def runs_on_cpu(device: str) -> bool:
    """Return True when workers will compute on the CPU; asking makes no CUDA context.

    Args:
        device: `runtime.device`: `auto`, `cpu` or `cuda`.
    """
    return device == "cpu" or not has_gpu(torch_build())


def torch_build() -> Mapping[str, Any]:
    """Return what torch says it was built for: its `torch.version`, read without importing torch.

    Raises:
        ModuleNotFoundError: torch is not installed.
    """
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("torch is not installed", name="torch")
    return runpy.run_path(str(Path(spec.submodule_search_locations[0]) / "version.py"))


def has_gpu(build: Mapping[str, Any], *, answer_s: float = ANSWER_S) -> bool:
    """Return True when a torch of this build will find a device on this machine.

    Args:
        build: of `torch_build`.
        answer_s: the longest wait for the driver, s.
    """
    if build.get("hip"):
        return _ROCM_DRIVER.exists()
    if not build.get("cuda"):
        return False
    command = [sys.executable, "-I", "-S", str(_COUNT_GPUS)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=answer_s, check=False)
    except subprocess.TimeoutExpired:
        return True
    return answer.returncode != 0 or int(answer.stdout) > 0  # a driver that crashes is there as well
