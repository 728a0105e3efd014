"""A run on SLURM as data: the batch script and the files that lie beside it."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sam3ft_api.fields import SinkName
from sam3ft_launch.folder.rundir import RunDir

RUN_FOLDER = re.compile(r"/[A-Za-z0-9_.+=@ /-]*")
"""Paths that mean the same to SLURM, to a shell and to a container's list of mounts."""


class SlurmSubmission(BaseModel):
    """What is put into the run folder and handed to sbatch.

    Attributes:
        name: of the run.
        uid: identity of the run folder.
        attempt: 1 for the first submission in the folder.
        run_dir: absolute path of the run folder, the same on every node.
        job_name: under which SLURM knows the job; the same submission made twice has the same name.
        nodes: nodes asked for.
        processes: worker processes of each node.
        script: the batch script.
        node_script: that of the nodes beyond the first, where each is a job of its own; empty otherwise.
        env: variables of the workers; never a secret.
        sinks: of the run's curves, whose variables the job takes over.
        config_json: the config document.
        finetune_yaml: the user's file, kept beside the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    uid: str
    attempt: Annotated[int, Field(ge=1)]
    run_dir: str
    job_name: str
    nodes: Annotated[int, Field(ge=1)]
    processes: Annotated[int, Field(ge=1)]
    script: str
    node_script: str = ""
    env: dict[str, str] = {}
    sinks: tuple[SinkName, ...] = ()
    config_json: str
    finetune_yaml: str

    @model_validator(mode="after")
    def _run_dir_is_absolute(self) -> Self:
        if not Path(self.run_dir).is_absolute():
            raise ValueError(f"run_dir {self.run_dir!r} is relative; compute nodes begin in another folder")
        return self

    @property
    def key(self) -> tuple[str, int]:
        """(uid, attempt): what makes `submit` idempotent."""
        return (self.uid, self.attempt)

    @property
    def folder(self) -> RunDir:
        """Paths inside the run folder."""
        return RunDir(Path(self.run_dir))

    def __str__(self) -> str:
        """Return the script as it will be submitted; it holds no secret."""
        return f"{self.script}\n{self.node_script}" if self.node_script else self.script
