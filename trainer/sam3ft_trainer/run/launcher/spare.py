"""A spare: a worker that has imported torch and the trainer, and waits for its place on standard input.

    python -m sam3ft_trainer.run.launcher.spare -m MODULE [ARGUMENT...]
    python -m sam3ft_trainer.run.launcher.spare FILE [ARGUMENT...]

One line of JSON, an object of strings, replaces the environment; then the process is the worker that this command
would have been. An end of the input without a line ends it quietly. An import that fails does so once more in the
worker, which tells it as any worker does. Importing makes no call to a device, so a spare holds host memory only. What
must stand in the environment before torch is imported stands there from the start.
"""

import importlib
import json
import os
import runpy
import sys
import traceback
import warnings
from pathlib import Path

from sam3ft_trainer.imports import without_collection
from sam3ft_trainer.run.launcher.child import send_output_to_log

PRELOADED = ("torch", "sam3ft_trainer.run.train")
READY = "spare: ready"
"""Last line of a spare's own log before it has a place."""


def main(argv: list[str]) -> None:
    """Import, wait, and run the command; returns only when the launcher has closed the input."""
    try:
        with without_collection():
            for name in PRELOADED:
                importlib.import_module(name)
        print(READY, flush=True)
    except Exception:  # noqa: BLE001 - whatever a library raises: the worker's own start tells it
        traceback.print_exc()
    if line := sys.stdin.buffer.readline():
        _take_place(json.loads(line))
        _run(argv[1:])


def _take_place(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    send_output_to_log()


def _run(command: list[str]) -> None:
    if command[0] == "-m":
        sys.argv = command[1:]
        # The trainer is imported, and its entry runs once more under the name of the main module, as in any start.
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning, module="runpy")
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).absolute().parent))
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv)
