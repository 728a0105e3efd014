"""Layers compiled by torch: what lies between matrix products fused into few kernels, a layer launched as one call.

A step of the 840 million parameters launches eleven thousand kernels one by one, most of them casts and element-wise
work: many hosts cannot launch them as fast as a large GPU does them. Compiled layer by layer, equal layers share what
was compiled.
"""

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch._dynamo.exc import TorchDynamoException

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import Compile

Result = TypeVar("Result")
MOST_VARIANTS = 64
"""Compiled forms of one layer: window sizes, sizes of the batch, frozen or not. torch gives up after 8 by itself."""
OLDEST_CAPABILITY = (7, 0)
"""Of CUDA devices that Triton writes kernels for."""
FIRST_LINES = 400
"""Characters of torch's message that a user is shown."""


class LayerCompiler:
    """Compiles functions when they are first called, each once for the whole process."""

    def __init__(self, *, backend: str = "inductor", on_failure: Callable[[str], None] | None = None) -> None:
        """Compile by `backend`.

        Args:
            backend: torch's name of it.
            on_failure: told why when a function cannot be compiled; from then on nothing is. None makes that an error.
        """
        self._backend = backend
        self._on_failure = on_failure
        self._has_failed = False

    def run(self, function: Callable[..., Result], *args: object, varies: bool) -> Result:
        """Return `function(*args)`, computed by its compiled form.

        Args:
            function: a module-level function.
            args: its arguments.
            varies: sizes change from step to step: a second one makes a form for all. Else each has a form of its own,
                which is faster.

        Raises:
            InvalidConfig: it cannot be compiled, and nobody wanted to be told.
        """
        if self._has_failed:
            return function(*args)
        try:
            result: Result = _compiled(function, self._backend, dynamic=None if varies else False)(*args)
        except TorchDynamoException as error:
            # What follows the first blank line is about torch's own logging.
            reason = " ".join(str(error).split("\n\n")[0].split())[:FIRST_LINES]
            if self._on_failure is None:
                raise InvalidConfig(
                    f"runtime.compile is always, and torch could not compile {function.__name__}: {reason}; "
                    "take auto or never"
                ) from error
            self._has_failed = True
            self._on_failure(f"torch could not compile {function.__name__}, training goes on without: {reason}")
            return function(*args)
        return result


@functools.cache
def _compiled(function: Callable[..., Result], backend: str, *, dynamic: bool | None) -> Callable[..., Result]:
    """Return `function` compiled as a whole; `dynamic` as torch has it."""
    config = torch._dynamo.config  # noqa: SLF001 - the documented place of these settings
    config.recompile_limit = MOST_VARIANTS
    # It cuts graphs at DDP's buckets, for sums of gradients to begin in between; layers are such pieces already.
    config.optimize_ddp = False
    return torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)


def missing_for_compiling(device: torch.device) -> str:
    """Return what this machine lacks for compiling for a CUDA device; empty when it lacks nothing."""
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return f"a device of compute capability {'.'.join(map(str, OLDEST_CAPABILITY))} or newer"
    if importlib.util.find_spec("triton") is None:
        return "the Python package triton"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc or clang on the PATH, or CC)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's header files (Python.h)"
    return ""


def why_not_compiled(wanted: Compile, device: torch.device) -> str:
    """Return why layers are not compiled; empty when they are.

    Args:
        wanted: the run's setting.
        device: CUDA, or another, where nothing is compiled: what the CPU computes is promised to the bit.

    Raises:
        InvalidConfig: `always` was asked for where it cannot be.
    """
    if wanted == "never":
        return "runtime.compile is never"
    reason = f"the device is {device.type}"
    if device.type == "cuda":
        missing = missing_for_compiling(device)
        reason = f"this machine lacks {missing}" if missing else ""
    if reason and wanted == "always":
        raise InvalidConfig(f"runtime.compile is always, but {reason}; take auto or never, or add what is missing")
    return reason


def keep_compiled_in(folder: Path) -> None:
    """Let this process, and those that follow it in `folder`, share what they compile; the user's own choice stays.

    The folder must belong to this run's user alone: what lies in it is executed.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
