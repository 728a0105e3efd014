"""The run folders of an agent: one a resource, with a note of whose it is."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sam3ft_api.errors import Fenced, StorageDenied
from sam3ft_api.files import write_atomically
from sam3ft_launch.folder.documents import read_document
from sam3ft_launch.folder.rundir import RunDir, others_may_write
from sam3ft_launch.slurm.agent.wanted import SiteRun

_NOTE = "agent.json"
_LOCK = "agent.lock"


class OwnerNote(BaseModel):
    """Content of `agent.json`: the resource whose run a folder holds.

    Attributes:
        version: of this file's form.
        account: uid of the agent's ServiceAccount: no other cluster or enrolment has it.
        namespace: of the resource.
        name: of the resource.
        uid: of the resource.
        site: whose agent made the folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    account: str
    namespace: str
    name: str
    uid: str
    site: str


def folder_of(root: Path, run: SiteRun) -> RunDir:
    """Return the folder of a run: a resource of the same name that is made later has another one."""
    return RunDir(root / run.namespace / f"{run.name}-{run.uid[:8]}")


def claim(folder: RunDir, note: OwnerNote) -> None:
    """Make a run's folder and write down whose it is.

    Raises:
        Fenced: it is another resource's.
        StorageDenied: it cannot be made, read or written.
    """
    folder.create()
    path = folder.root / _NOTE
    known = read_document(path, OwnerNote)
    if known is not None and known.uid != note.uid:
        raise Fenced(f"{folder.root} holds the run of another resource ({known.namespace}/{known.name}, {known.uid})")
    if known != note:
        try:
            write_atomically(path, note.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise StorageDenied(f"{path} cannot be written: {error.strerror}") from error


def noted(root: Path) -> Iterator[tuple[RunDir, OwnerNote]]:
    """Yield the folders below `root` that an agent has made; what cannot be read is passed over."""
    for path in sorted(root.glob(f"*/*/{_NOTE}")):
        try:
            note = read_document(path, OwnerNote)
        except StorageDenied:
            continue
        if note is not None:
            yield RunDir(path.parent), note


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the right to be the agent of these folders.

    Raises:
        Fenced: another agent is at work here.
        StorageDenied: the folder cannot be made or locked, or others may write into it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageDenied(f"{root}: {error.strerror}; name another folder with --runs") from error
    if others_may_write(root):
        os.close(descriptor)
        raise StorageDenied(
            f"{root} can be written by others, and what lies there is run as you; `chmod go-w {root}`, or name another "
            "folder with --runs"
        )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Fenced(f"another agent is at work in {root}; stop it, or name another folder with --runs") from None
    finally:
        os.close(descriptor)
