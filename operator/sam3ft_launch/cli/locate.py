"""Which run a verb means: a run folder, the name of a run, its YAML file, or the newest run below `runs/`."""

from pathlib import Path
from typing import Annotated

import typer

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.backend import Handle
from sam3ft_launch.folder.rundir import RUNS_FOLDER, RunDir
from sam3ft_launch.local.backend import LocalBackend
from sam3ft_launch.local.record import RunRecord, read_record
from sam3ft_launch.prepare import load

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="A run folder, the name of a run below runs/, or its YAML file. Default: the newest run below runs/.",
        show_default=False,
    ),
]


def locate(run: str | None) -> tuple[RunDir, RunRecord]:
    """Return the folder and the record of the run that is meant.

    Raises:
        InvalidConfig: there is no such run; the message lists the ones there are.
    """
    runs = Path(RUNS_FOLDER).absolute()
    folder = _newest(runs) if run is None else _named(run, runs)
    record = read_record(folder.record) if folder else None
    if folder is None or record is None:
        raise InvalidConfig(f"{_what(run)}; {_known(runs)}")
    return folder, record


def handle_of(folder: RunDir, record: RunRecord) -> Handle:
    """Return the handle of a run that was found by its folder."""
    return Handle(LocalBackend.name, record.uid, record.attempt, str(folder.root))


def backend_of(folder: RunDir) -> LocalBackend:
    """Return a backend that looks after this folder."""
    return LocalBackend(folder.root.parent, run_dir=folder.root)


def _named(run: str, runs: Path) -> RunDir:
    path = Path(run).absolute()
    if path.is_file():
        return RunDir(runs / load(path, assignments=()).name)
    return RunDir(path if path.is_dir() or "/" in run else runs / run)


def _newest(runs: Path) -> RunDir | None:
    records = sorted(runs.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    return RunDir(records[-1].parent) if records else None


def _what(run: str | None) -> str:
    return f"no run is found in {RUNS_FOLDER}/" if run is None else f"{run!r} names no run"


def _known(runs: Path) -> str:
    names = sorted(path.parent.name for path in runs.glob("*/run.json"))
    if not names:
        return f"start one with `sam3ft run FILE`, or name a run folder (there is none below {runs})"
    return f"known below {runs}: {', '.join(names[:20])}"
