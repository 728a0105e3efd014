"""`sam3ft plan`: what a run would do, without doing any of it."""

from sam3ft_launch.cli.options import (
    BackendName,
    BackendOption,
    FileArgument,
    NprocOption,
    RunDirOption,
    SetOption,
    require_available,
)
from sam3ft_launch.cli.output import OutputFormat, OutputOption, emit
from sam3ft_launch.cli.session import config_file, open_session
from sam3ft_launch.cli.trainer import ask_trainer, show_trainer
from sam3ft_launch.prepare import load


def plan(
    file: FileArgument,
    *,
    backend: BackendOption = BackendName.LOCAL,
    nproc: NprocOption = None,
    run_dir: RunDirOption = None,
    assignments: SetOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show updates, memory by part against the device, FLOPs, estimated time, and the processes that would start."""
    require_available(backend)
    session = open_session(load(file, assignments=assignments or ()), nproc=nproc, run_dir=run_dir, detached=True)
    submission = session.backend.render(session.plan)
    with config_file(session.plan.config) as path:
        arguments = ["plan", "--config", str(path), "--nproc", str(session.plan.processes_per_node)]
        if output is OutputFormat.JSON:
            document = ask_trainer(arguments).document_or_raise()
            emit(plan=session.plan, submission=str(submission).splitlines(), trainer=document)
            return
        show_trainer(arguments)
    print(f"\nprocesses\n{submission}")
