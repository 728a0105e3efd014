"""One run in a folder of its own, here or on a SLURM site, from its prepared form to its end."""

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3ft_api.errors import Fenced
from sam3ft_api.files import write_atomically
from sam3ft_api.plan import JobPlan
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.backend import Backend, Handle
from sam3ft_launch.cli.follow import follow, view_for
from sam3ft_launch.cli.locate import Found, look_into
from sam3ft_launch.cli.output import OutputFormat, emit
from sam3ft_launch.cli.summary import ending, ending_lines
from sam3ft_launch.cli.trainer import ask_trainer, show_trainer
from sam3ft_launch.folder.rundir import DATASET_FILE, RUNS_FOLDER, RunDir
from sam3ft_launch.local.backend import LocalBackend
from sam3ft_launch.prepare import Prepared, new_uid, plan_here
from sam3ft_launch.slurm.backend import SlurmBackend
from sam3ft_launch.slurm.plan import plan_on_slurm
from sam3ft_launch.slurm.settings import read_settings, settings_file


@dataclass(frozen=True, slots=True)
class Session:
    """A planned attempt.

    Attributes:
        plan: every decision made.
        folder: the run folder; nothing is in it yet when the run is new.
        backend: where it will be submitted.
        earlier: the run that the folder holds already; None for a new one.
    """

    plan: JobPlan
    folder: RunDir
    backend: Backend[Any]
    earlier: Found | None


def open_session(prepared: Prepared, *, nproc: int | None, run_dir: Path | None, detached: bool) -> Session:
    """Plan the next attempt in the run folder; nothing is written.

    Raises:
        InvalidConfig: the plan is impossible on this machine.
    """
    folder, earlier, uid, attempt = _next_attempt(prepared, run_dir)
    plan = plan_here(
        prepared,
        folder=folder,
        uid=uid,
        attempt=attempt,
        nproc=nproc,
    )
    return Session(plan, folder, LocalBackend(folder.root.parent, run_dir=folder.root, detached=detached), earlier)


def open_slurm_session(prepared: Prepared, *, nproc: int | None, run_dir: Path | None) -> Session:
    """Plan the next attempt on the SLURM site whose login node this is; nothing is written or asked.

    Raises:
        InvalidConfig: the plan is impossible there, or the site's settings are wrong.
    """
    settings = read_settings(settings_file(os.environ))
    folder, earlier, uid, attempt = _next_attempt(prepared, run_dir)
    plan = plan_on_slurm(
        prepared,
        folder=folder,
        uid=uid,
        attempt=attempt,
        nproc=nproc,
        settings=settings,
        environ=os.environ,
    )
    return Session(plan, folder, SlurmBackend(folder.root.parent, run_dir=folder.root, settings=settings), earlier)


def _next_attempt(prepared: Prepared, run_dir: Path | None) -> tuple[RunDir, Found | None, str, int]:
    """Return the run folder, what it holds, the run's identity and the number of the attempt that comes next."""
    folder = RunDir(run_dir.absolute() if run_dir else Path(RUNS_FOLDER).absolute() / prepared.name)
    found = look_into(folder)
    if found is None:
        return folder, None, new_uid(), 1
    return folder, found, found.handle.uid, found.handle.attempt + found.is_submitted


def drive(session: Session, *, detach: bool, output: OutputFormat) -> int:
    """Check, start and follow the run; returns its exit code, or 0 at once when it is detached.

    Raises:
        Fenced: the folder's run goes on already.
        Sam3ftError: the check refused it; nothing was started.
    """
    _refuse_if_live(session)
    submission = session.backend.render(session.plan)
    _announce(session, output)
    check(session, output=output)
    handle = session.backend.submit(submission)
    if detach:
        _say_detached(session, handle, output)
        return 0
    observed = follow(session.backend, handle, view=view_for(output), grace_s=session.plan.grace_s)
    end = ending(session.folder, observed)
    if output is OutputFormat.JSON:
        emit(event="ended", name=session.plan.name, **end)
    else:
        print("\n".join(ending_lines(session.plan.name, end)))
    return int(end["code"])


def check(session: Session, *, output: OutputFormat) -> None:
    """Have the trainer look at data, model, storage and, for a run on this machine, memory before any training step.

    Its account of the data set goes into the run folder, where the report finds it; a refusal leaves no folder behind.

    Raises:
        Sam3ftError: it refused, with its own code; for people it has said why already.
    """
    with config_file(session.plan.config) as path:
        account = path.with_name(DATASET_FILE)
        arguments = ["check", "--config", str(path), "--nproc", str(session.plan.world_size), "--save", str(account)]
        if session.plan.slurm is not None:
            arguments.append("--for-others")
        if output is OutputFormat.JSON:
            emit(event="checked", **ask_trainer(arguments, env=session.plan.env).document_or_raise())
        else:
            show_trainer(arguments, env=session.plan.env)
        session.folder.create()
        write_atomically(session.folder.dataset, account.read_text(encoding="utf-8"))


@contextmanager
def config_file(config: TrainingConfig) -> Iterator[Path]:
    """Yield a file with the config document that is gone afterwards, for verbs that leave nothing behind."""
    with tempfile.TemporaryDirectory(prefix="sam3ft-") as folder:
        path = Path(folder) / "config.json"
        path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        yield path


def _refuse_if_live(session: Session) -> None:
    found = session.earlier
    if found is None:
        return
    if found.backend.name != session.backend.name:
        raise Fenced(
            f"{session.folder.root} holds a run of --backend {found.backend.name}; name another folder with --run-dir, "
            "and the same checkpoint.uri with checkpoint.adopt: true, to go on elsewhere"
        )
    if found.is_submitted and found.is_live():
        raise Fenced(
            f"{found.name} already runs in {session.folder.root} (attempt {found.handle.attempt}, {found.driver}); "
            f"follow it with `sam3ft logs -f {session.folder.root}`, stop it with "
            f"`sam3ft cancel {session.folder.root}`, or name another folder with --run-dir"
        )


def _announce(session: Session, output: OutputFormat) -> None:
    plan = session.plan
    if output is OutputFormat.JSON:
        emit(
            event="planned",
            name=plan.name,
            attempt=plan.attempt,
            processes=plan.world_size,
            folder=session.folder.root,
        )
        return
    again = "" if plan.attempt == 1 else f", attempt {plan.attempt}: goes on from the newest checkpoint if there is one"
    processes = "1 process" if plan.world_size == 1 else f"{plan.world_size} processes"
    where = "on this machine"
    if plan.slurm is not None:
        where = f"on {plan.nodes} {'node' if plan.nodes == 1 else 'nodes'} of SLURM"
    print(f"{plan.name}: {processes} {where}, folder {session.folder.root}{again}", flush=True)


def _say_detached(session: Session, handle: Handle, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        emit(event="submitted", name=session.plan.name, attempt=handle.attempt, folder=handle.location)
        return
    where = shlex.quote(str(session.folder.root))
    print(f"started; `sam3ft status {where}`, `sam3ft logs -f {where}` and `sam3ft cancel {where}` look after it")
