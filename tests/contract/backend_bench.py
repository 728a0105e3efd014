"""A backend on trial: what each backend must bring to pass the contract."""

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ft_api.plan import JobPlan
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.backend import Backend, Handle
from sam3ft_launch.local.backend import LocalBackend
from sam3ft_launch.slurm.backend import SlurmBackend
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.settings import SlurmSettings

if TYPE_CHECKING:  # a test imports this file where nothing else of the tests is found
    from slurm_site import SlurmSite

FAKE_LAUNCHER = Path(__file__).parents[1] / "assets/launch/fake_launcher.py"


@dataclass
class Bench:
    """One backend on trial.

    Attributes:
        backend: the backend.
        num_starts: how often the run of a handle was started.
        user_files: a folder of the run that belongs to the user and must outlive `delete`.
        uid: of its runs; a scheduler that tests share remembers the names of jobs that have ended.
    """

    backend: Backend[Any]
    num_starts: Callable[[Handle], int]
    user_files: Callable[[Handle], Path]
    uid: str = "u-1"
    handles: list[Handle] = field(default_factory=list)

    def plan(self, script: str, **changes: Any) -> JobPlan:
        """Return a plan whose launcher follows `script`."""
        values = {"name": "cells", "uid": self.uid, "backend": self.backend.name, "config": TrainingConfig(), **changes}
        return JobPlan(env={"SCRIPT": script}, **values)

    def submit(self, script: str, **changes: Any) -> Handle:
        """Submit such a plan; it is deleted after the test."""
        handle = self.backend.submit(self.backend.render(self.plan(script, **changes)))
        self.handles.append(handle)
        return handle


def local_bench(tmp_path: Path) -> Bench:
    """Return the local backend with a launcher that follows a script."""
    backend = LocalBackend(tmp_path / "runs", launcher_command=(sys.executable, str(FAKE_LAUNCHER)))
    return Bench(backend, _num_starts, lambda handle: Path(handle.location) / "checkpoints")


def slurm_bench(tmp_path: Path, site: "SlurmSite") -> Bench:
    """Return the SLURM backend on a real site, with a launcher that follows a script.

    Args:
        tmp_path: for the run folders.
        site: which runs.
    """
    backend = SlurmBackend(
        tmp_path / "runs",
        settings=SlurmSettings(poll_s=0.2),
        client=SlurmClient(environ=site.environ),
        launcher_command=(sys.executable, str(FAKE_LAUNCHER)),
    )
    return Bench(backend, _num_starts, lambda handle: Path(handle.location) / "checkpoints", uuid.uuid4().hex)


def _num_starts(handle: Handle) -> int:
    path = Path(handle.location) / "work/starts"
    return len(path.read_text().split()) if path.exists() else 0
