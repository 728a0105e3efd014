"""Options that several verbs share."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sam3ft_api.errors import InvalidConfig


class BackendName(StrEnum):
    """Where a run may live."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"
    SLURM = "slurm"


ENV_BACKEND = "SAM3FT_BACKEND"
"""Stands for --backend where that is not given."""

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file of a run (kind SAM3FineTune).")]
BackendOption = Annotated[
    BackendName | None,
    typer.Option(
        "--backend",
        envvar=ENV_BACKEND,
        help="Where it runs: this machine, unless the verb or an option is of a cluster.",
        show_default=False,
    ),
]
NprocOption = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Worker processes. Default: one per GPU of this machine, at most workers.gpusPerNode; one without a GPU.",
        show_default=False,
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        help="Folder for everything the run writes. Default: runs/NAME in the current folder.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one field of the file, such as training.epochs=3; may be given several times.",
        show_default=False,
    ),
]


def refuse_options(options: Mapping[str, object], why: str) -> None:
    """Make sure that none of these options was given.

    Raises:
        InvalidConfig: one was; the message names it and says why.
    """
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InvalidConfig(f"{given[0]} {why}")
