"""`sam3ft plan`: what a run would do, without doing any of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sam3ft_launch.cli.options import (
    BackendName,
    BackendOption,
    FileArgument,
    NprocOption,
    RunDirOption,
    SetOption,
    refuse_options,
)
from sam3ft_launch.cli.output import OutputFormat, OutputOption, emit
from sam3ft_launch.cli.session import config_file, open_session, open_slurm_session
from sam3ft_launch.cli.trainer import ask_trainer, show_trainer
from sam3ft_launch.prepare import load, load_resource

WorkerProfilesOption = Annotated[
    Path | None,
    typer.Option(
        "--worker-profiles",
        metavar="FILE",
        help="With --backend kubernetes: the administrator's worker profiles. Default: the profile `default` alone.",
        show_default=False,
    ),
]
StorageProfilesOption = Annotated[
    Path | None,
    typer.Option(
        "--storage-profiles",
        metavar="FILE",
        help="With --backend kubernetes: the administrator's storage profiles. Default: the profile `default` alone.",
        show_default=False,
    ),
]


def plan(
    file: FileArgument,
    *,
    backend: BackendOption = None,
    nproc: NprocOption = None,
    run_dir: RunDirOption = None,
    assignments: SetOption = None,
    worker_profiles: WorkerProfilesOption = None,
    storage_profiles: StorageProfilesOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show updates, memory by part against the device, FLOPs, estimated time, and the processes that would start.

    With --backend kubernetes, show the objects that the operator would create; no cluster is asked. With --backend
    slurm, show the batch script; nothing is submitted.
    """
    if backend is BackendName.KUBERNETES:
        refuse_options({"--nproc": nproc, "--run-dir": run_dir}, "is for this machine; set spec.workers instead")
        _plan_on_cluster(file, assignments or (), worker_profiles, storage_profiles, output)
        return
    refuse_options(
        {"--worker-profiles": worker_profiles, "--storage-profiles": storage_profiles}, "is for --backend kubernetes"
    )
    prepared = load(file, assignments=assignments or ())
    if backend is BackendName.SLURM:
        session = open_slurm_session(prepared, nproc=nproc, run_dir=run_dir)
    else:
        session = open_session(prepared, nproc=nproc, run_dir=run_dir, detached=True)
    submission = session.backend.render(session.plan)
    with config_file(session.plan.config) as path:
        arguments = ["plan", "--config", str(path), "--nproc", str(session.plan.processes_per_node)]
        if output is OutputFormat.JSON:
            document = ask_trainer(arguments).document_or_raise()
            emit(plan=session.plan, submission=str(submission).splitlines(), trainer=document)
            return
        show_trainer(arguments)
    print(f"\n{'batch script' if backend is BackendName.SLURM else 'processes'}\n{submission}")


def _plan_on_cluster(
    file: Path,
    assignments: Sequence[str],
    worker_profiles: Path | None,
    storage_profiles: Path | None,
    output: OutputFormat,
) -> None:
    from sam3ft_launch.kubernetes.preview import preview, settings_from  # noqa: PLC0415 - other verbs need none of it

    settings = settings_from(worker_profiles=worker_profiles, storage_profiles=storage_profiles)
    finetune, source = load_resource(file, assignments=assignments)
    made, submission = preview(finetune, source=source, settings=settings)
    if output is OutputFormat.JSON:
        emit(plan=made, objects=submission.objects)
    else:
        print(submission, end="")
