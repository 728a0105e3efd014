"""The trainer as a process: `python -m sam3ft_trainer VERB ...`, so that the command line never loads torch."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam3ft_api.errors import InvalidConfig, Sam3ftError, UserError
from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.local.process import shell_code, tether

TRAINER_COMMAND = (sys.executable, "-m", "sam3ft_trainer")
_LAST_CHARS = 4000


@dataclass(frozen=True, slots=True)
class TrainerAnswer:
    """How a verb of the trainer ended.

    Attributes:
        code: exit status, shell style.
        document: the JSON document on its standard output; empty when there was none.
        errors: the end of its standard error.
    """

    code: int
    document: dict[str, Any]
    errors: str

    @property
    def message(self) -> str:
        """The one message of a failure: the document's, else the last words on standard error."""
        return str(self.document.get("message") or self.errors.strip() or "it said nothing")

    def document_or_raise(self) -> dict[str, Any]:
        """Return the document of a verb that ended with 0.

        Raises:
            Sam3ftError: it ended otherwise; of the class that belongs to its exit code.
        """
        if self.code != ExitCode.SUCCEEDED:
            raise error_for(self.code, self.message)
        return self.document


class TrainerHasSpoken(Sam3ftError):
    """The trainer ended with an error that people have seen already.

    Attributes:
        exit_code: what this command ends with, too.
    """

    def __init__(self, exit_code: int) -> None:
        """Keep the code; there is nothing to add to the trainer's own words."""
        super().__init__(f"the trainer ended with {exit_code}")
        self.exit_code = exit_code


def require_trainer() -> None:
    """Make sure that the trainer's libraries are installed, without loading them.

    Raises:
        InvalidConfig: they are not.
    """
    if importlib.util.find_spec("torch") is None:
        raise InvalidConfig(
            f"the trainer's libraries are not installed in {sys.prefix} (no torch); "
            "install them with: pip install 'sam3ft[trainer]'"
        )


def ask_trainer(arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> TrainerAnswer:
    """Run a verb with `-o json` to its end and return its answer; it dies with this process.

    Call from the main thread.

    Args:
        arguments: the verb and its own.
        env: variables that it gets besides this process's own.
    """
    require_trainer()
    ended = subprocess.run(
        [*TRAINER_COMMAND, *arguments, "-o", "json"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **(env or {})},
        text=True,
        errors="replace",
        preexec_fn=tether(),
    )
    return TrainerAnswer(shell_code(ended.returncode), _last_document(ended.stdout), ended.stderr[-_LAST_CHARS:])


def show_trainer(arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
    """Run a verb to its end with its output on this terminal; it dies with this process.

    Args:
        arguments: the verb and its own.
        env: variables that it gets besides this process's own.

    Raises:
        TrainerHasSpoken: it did not end with 0.
    """
    require_trainer()
    sys.stdout.flush()
    ended = subprocess.run(
        [*TRAINER_COMMAND, *arguments],
        check=False,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        preexec_fn=tether(),
    )
    if ended.returncode:
        raise TrainerHasSpoken(shell_code(ended.returncode))


def error_for(code: int, message: str) -> Sam3ftError:
    """Return the error whose class belongs to an exit code; unknown codes are internal errors."""
    for kind in (*UserError.__subclasses__(), *Sam3ftError.__subclasses__()):
        if kind.__module__ == Sam3ftError.__module__ and kind.code == code:
            return kind(message)
    return Sam3ftError(message)


def become_trainer(arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
    """Replace this process by a verb of the trainer: its output, signals and exit code are then the command's own.

    Args:
        arguments: the verb and its own.
        env: variables that it gets besides this process's own.

    Raises:
        InvalidConfig: the trainer's libraries are not installed.
    """
    require_trainer()
    sys.stdout.flush()
    words = [*TRAINER_COMMAND, *arguments]
    os.execve(TRAINER_COMMAND[0], words, {**os.environ, **(env or {})})  # noqa: S606 - a list, no shell


def _last_document(text: str) -> dict[str, Any]:
    """Return the JSON object that is the whole text or its last line; empty without one."""
    for candidate in (text, text.strip().rpartition("\n")[2]):
        try:
            document = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(document, dict):
            return document
    return {}
