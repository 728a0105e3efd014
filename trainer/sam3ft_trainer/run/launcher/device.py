"""Whether the workers of this node will compute on a CPU, found out without torch, whose import takes seconds."""

import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sam3ft_trainer.run.launcher.processes import kill_sessions

_COUNT_GPUS = Path(__file__).with_name("count_gpus.py")
ANSWER_S = 20.0
"""A driver that says nothing for so long counts as one with devices: the workers meet it, and say what is wrong."""

_KILLED_S = 1.0


def runs_on_cpu(device: str, say: Callable[[str], None]) -> bool:
    """Return True when workers will compute on the CPU; asking makes no CUDA context.

    Args:
        device: `runtime.device`: `auto`, `cpu` or `cuda`.
        say: told of a driver that gives no answer.
    """
    return device == "cpu" or not has_gpu(torch_build(), say)


def torch_build() -> Mapping[str, Any]:
    """Return what torch says it was built for: its `torch.version`, read without importing torch.

    Raises:
        ModuleNotFoundError: torch is not installed.
    """
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("torch is not installed", name="torch")
    return runpy.run_path(str(Path(spec.submodule_search_locations[0]) / "version.py"))


def has_gpu(build: Mapping[str, Any], say: Callable[[str], None], *, answer_s: float = ANSWER_S) -> bool:
    """Return True when a torch of this build may find a CUDA device on this machine.

    A driver that hangs, crashes or refuses is there: workers fail with its words and do not train on the CPU instead.

    Args:
        build: of `torch_build`.
        say: told of a driver that gives no answer.
        answer_s: the longest wait for the driver, s.
    """
    if not build.get("cuda"):
        return False
    command = [sys.executable, "-I", "-S", str(_COUNT_GPUS)]
    probe = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        counted, refused = probe.communicate(timeout=answer_s)
    except subprocess.TimeoutExpired:
        kill_sessions([probe], within_s=_KILLED_S)  # in the hands of a driver it may outlive even that
        for pipe in (probe.stdout, probe.stderr):
            if pipe is not None:
                pipe.close()
        say(f"the CUDA driver has not said within {answer_s:g} s how many devices there are")
        return True
    words = counted.split()
    if probe.returncode == 0 and words and words[-1].isdigit():
        return int(words[-1]) > 0
    why = refused.decode(errors="replace").strip()[-200:] or f"exit code {probe.returncode}"
    say(f"the CUDA driver does not say how many devices there are: {why}")
    return True
