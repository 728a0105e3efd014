"""A backend on trial: what each backend must bring to pass the contract."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam3ft_api.plan import JobPlan
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.backend import Backend, Handle
from sam3ft_launch.local.backend import LocalBackend

FAKE_LAUNCHER = Path(__file__).parents[1] / "assets/launch/fake_launcher.py"


@dataclass
class Bench:
    """One backend on trial.

    Attributes:
        backend: the backend.
        num_starts: how often the run of a handle was started.
        user_files: a folder of the run that belongs to the user and must outlive `delete`.
    """

    backend: Backend[Any]
    num_starts: Callable[[Handle], int]
    user_files: Callable[[Handle], Path]
    handles: list[Handle] = field(default_factory=list)

    def plan(self, script: str, **changes: Any) -> JobPlan:
        """Return a plan whose launcher follows `script`."""
        values = {"name": "cells", "uid": "u-1", "backend": "local", "config": TrainingConfig(), **changes}
        return JobPlan(env={"SCRIPT": script}, **values)

    def submit(self, script: str, **changes: Any) -> Handle:
        """Submit such a plan; it is deleted after the test."""
        handle = self.backend.submit(self.backend.render(self.plan(script, **changes)))
        self.handles.append(handle)
        return handle


def local_bench(tmp_path: Path) -> Bench:
    """Return the local backend with a launcher that follows a script."""

    def starts(handle: Handle) -> int:
        path = Path(handle.location) / "work/starts"
        return len(path.read_text().split()) if path.exists() else 0

    backend = LocalBackend(tmp_path / "runs", launcher_command=(sys.executable, str(FAKE_LAUNCHER)))
    return Bench(backend, starts, lambda handle: Path(handle.location) / "checkpoints")
