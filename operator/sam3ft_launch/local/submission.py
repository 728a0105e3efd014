"""A local run as data: exactly which processes will be started, with which document."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sam3ft_api.plan import RestartBudget
from sam3ft_api.worker import ENV_TOKEN
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.launcher import LAUNCHER_MODULE, budget_arguments, grace_arguments

COORDINATOR_COMMAND = (sys.executable, "-m", "sam3ft_launch.coordinator")
LAUNCHER_COMMAND = (sys.executable, "-m", LAUNCHER_MODULE)
HOST = "127.0.0.1"
"""Coordinator and workers of a local run listen here only."""


class LocalSubmission(BaseModel):
    """What the supervisor is told, on its standard input.

    Attributes:
        name: of the run.
        uid: identity of the run folder.
        attempt: 1 for the first submission in the folder.
        run_dir: absolute path of the run folder.
        processes: worker processes.
        grace_s: seconds a worker has for saving when the run is cancelled without another word.
        config_json: the config document.
        finetune_yaml: the user's file, kept beside the run.
        deadline_s: seconds from the start after which the run is asked to save and end; None without one.
        env: variables of the workers, besides this process's own.
        budget: how many ends are forgiven.
        warm_spares: keep one more process per worker that has the libraries loaded.
        coordinator_command: how a coordinator is started, without its arguments.
        launcher_command: how a launcher is started, without its arguments.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    uid: str
    attempt: Annotated[int, Field(ge=1)]
    run_dir: str
    processes: Annotated[int, Field(ge=1)]
    grace_s: Annotated[float, Field(gt=0)]
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    config_json: str
    finetune_yaml: str
    env: dict[str, str] = {}
    budget: RestartBudget = RestartBudget()
    warm_spares: bool = False
    coordinator_command: tuple[str, ...] = COORDINATOR_COMMAND
    launcher_command: tuple[str, ...] = LAUNCHER_COMMAND

    @model_validator(mode="after")
    def _run_dir_is_absolute(self) -> Self:
        if not Path(self.run_dir).is_absolute():
            raise ValueError(f"run_dir {self.run_dir!r} is relative; the supervisor may run in another folder")
        return self

    @property
    def key(self) -> tuple[str, int]:
        """(uid, attempt): what makes `submit` idempotent."""
        return (self.uid, self.attempt)

    @property
    def folder(self) -> RunDir:
        """Paths inside the run folder."""
        return RunDir(Path(self.run_dir))

    def coordinator_argv(self, port: int) -> tuple[str, ...]:
        """Return the coordinator's command line; port 0 lets it choose one."""
        return (
            *self.coordinator_command,
            *("--listen", f"{HOST}:{port}"),
            *("--port-file", str(self.folder.coordinator_port)),
            *("--nodes", "1"),
            *("--attempt", str(self.attempt)),
        )

    def launcher_argv(self, address: str) -> tuple[str, ...]:
        """Return the launcher's command line for a coordinator at `address` (HOST:PORT)."""
        return (
            *self.launcher_command,
            *("--config", str(self.folder.config)),
            *("--work-dir", str(self.folder.work)),
            *("--nproc", str(self.processes)),
            *("--coordinator", address),
            *("--attempt", str(self.attempt)),
            *budget_arguments(self.budget),
            *grace_arguments(self.grace_s),
            *("--termination-log", str(self.folder.last_word)),
            *(("--warm-spares",) if self.warm_spares else ()),
        )

    def __str__(self) -> str:
        """Return the run as a shell user would start it; the token is made at the start and shown nowhere."""
        variables = (f"{name}={shlex.quote(value)}" for name, value in sorted(self.env.items()))
        lines = [
            f"# run {self.name}, attempt {self.attempt}, folder {self.run_dir}",
            f"{ENV_TOKEN}=<random> {shlex.join(self.coordinator_argv(0))}",
            " ".join((f"{ENV_TOKEN}=<random>", *variables, shlex.join(self.launcher_argv(f"{HOST}:PORT")))),
        ]
        return "\n".join(lines)
