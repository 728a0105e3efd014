"""`sam3ft run`: fine-tune."""

from typing import Annotated

import typer

from sam3ft_launch.cli.cluster.place import ClusterPlace, placed
from sam3ft_launch.cli.options import (
    FileArgument,
    NprocOption,
    RunDirOption,
    SetOption,
    refuse_options,
)
from sam3ft_launch.cli.output import OutputFormat, OutputOption
from sam3ft_launch.cli.session import drive, open_session, open_slurm_session
from sam3ft_launch.prepare import load
from sam3ft_launch.slurm.client import SlurmClient

DetachOption = Annotated[
    bool, typer.Option("--detach", help="Return once it has started; it goes on without this terminal.")
]


@placed(starts=True)
def run(
    file: FileArgument,
    *,
    place: ClusterPlace | None,
    on_slurm: bool,
    nproc: NprocOption = None,
    run_dir: RunDirOption = None,
    assignments: SetOption = None,
    detach: DetachOption = False,
    output: OutputOption = OutputFormat.TEXT,
) -> int:
    """Check the data, then train, score and export. The same command goes on after an interruption.

    On a cluster: apply the file and follow the run; Ctrl-C leaves it alone. On the login node of a SLURM site: submit a
    job and follow the run; Ctrl-C asks it to save and end, as here.
    """
    if place is not None:
        from sam3ft_launch.cli.cluster.run import run_on_cluster  # noqa: PLC0415 - an extra's library

        refuse_options({"--nproc": nproc, "--run-dir": run_dir}, "is for this machine; set spec.workers instead")
        return run_on_cluster(place, file, assignments=assignments or (), detach=detach, output=output)
    prepared = load(file, assignments=assignments or ())
    if on_slurm:
        SlurmClient().require_programs()  # before the data is looked at, which may take long
        return drive(open_slurm_session(prepared, nproc=nproc, run_dir=run_dir), detach=detach, output=output)
    session = open_session(prepared, nproc=nproc, run_dir=run_dir, detached=detach)
    return drive(session, detach=detach, output=output)
