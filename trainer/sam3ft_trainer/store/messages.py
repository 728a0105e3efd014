"""What ranks tell each other at the end of a save, and how an error travels from one rank to the others."""

from typing import Literal

from sam3ft_api.errors import (
    CheckpointIncompatible,
    Fenced,
    InvalidConfig,
    PeerLost,
    Sam3ftError,
    StorageDenied,
    StorageUnavailable,
)
from sam3ft_trainer.store.records import FileRecord, Record


class Receipt(Record):
    """What a rank says about its part of a save: done with these files, busy with another save, or failed."""

    state: Literal["ok", "skipped", "failed"]
    files: tuple[FileRecord, ...] = ()
    plan_digest: str = ""
    error: str = ""
    message: str = ""


class Outcome(Record):
    """How a save ended, the same on all ranks.

    Attributes:
        state: committed; skipped (a rank was busy with the save before); aborted (a peer was silent); failed.
        seq: log entry of the commit.
        error: class of the failure, as in `sam3ft_api.errors`.
        message: for people.
    """

    state: Literal["committed", "skipped", "aborted", "failed"]
    seq: int = 0
    error: str = ""
    message: str = ""

    def raise_if_failed(self) -> None:
        """Raise the failure that ends the run, if it was one."""
        if self.state == "failed":
            raise error_named(self.error, self.message)


_ERRORS: dict[str, type[Sam3ftError]] = {
    cls.__name__: cls
    for cls in (StorageDenied, StorageUnavailable, Fenced, PeerLost, CheckpointIncompatible, InvalidConfig)
}


def name_of(error: BaseException) -> str:
    """Return the name of the public class of an error, its own name for unexpected ones."""
    return next((name for name, cls in _ERRORS.items() if isinstance(error, cls)), type(error).__name__)


def error_named(name: str, message: str) -> Exception:
    """Return the error that another rank reported; an unexpected one becomes a RuntimeError."""
    return _ERRORS[name](message) if name in _ERRORS else RuntimeError(f"{name}: {message}")
