"""What runs on a site say is kept beside their checkpoints, where people far from the site read it.

The trainer does it, in one process for all runs, because it alone has the libraries of object stores: the agent says
which logs there are and how far each is kept, and notes the answer in the run's folder.
"""

import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sam3ft_api.errors import StorageDenied
from sam3ft_api.files import write_atomically
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.folder.documents import read_document
from sam3ft_launch.folder.last_word import read_progress
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.local.process import kill_or_leave, tether

_log = logging.getLogger(__name__)

EVERY_S = 30.0
"""Between two passes, at least."""
LONGEST_S = 300.0
"""A pass that takes longer is ended; the next one looks for what it has kept."""
MOST_TRIES = 20
"""Passes in a row that fail for a run before it is given up: a store that refuses it refuses it for ever."""
AT_ONCE = 100
"""Runs of one pass."""
_LAST_CHARS = 500


class KeptTo(BaseModel):
    """Content of `work/kept-log.json`.

    Attributes:
        end: bytes of the run's log that are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    end: int = 0


@dataclass(slots=True)
class _Pass:
    process: "subprocess.Popen[bytes]"
    folders: dict[str, RunDir]
    answer: IO[bytes]
    end_s: float


@dataclass(slots=True)
class KeptLogs:
    """Keeps the logs of a site's runs. For the main thread alone: the process dies with it.

    Attributes:
        command: `sam3ft_trainer`'s, without the verb.
        environ: of the process.
        clock: monotonic seconds.
    """

    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    clock: Callable[[], float] = time.monotonic
    _over: dict[str, RunDir] = field(default_factory=dict)
    _tries: dict[str, int] = field(default_factory=dict)
    _sure: set[str] = field(default_factory=set)
    _served: dict[str, int] = field(default_factory=dict)
    _passes: int = 0
    _pass: _Pass | None = None
    _again_s: float = 0.0

    def finish(self, folder: RunDir) -> None:
        """Keep the rest of a log to which nothing is added any more."""
        self._over[str(folder.log)] = folder

    @property
    def is_busy(self) -> bool:
        """Tell whether a pass is under way."""
        return self._pass is not None

    def tick(self, live: Iterable[RunDir]) -> None:
        """Take note of a pass that has ended, or begin one where a log has grown; never waits.

        Args:
            live: folders of runs that may say more.
        """
        if self._pass is not None:
            if self._pass.process.poll() is None and self.clock() < self._pass.end_s:
                return
            self._end(self._pass)
        if self.clock() < self._again_s:
            return
        wanted = {str(folder.log): folder for folder in live} | self._over
        self._served = {log: number for log, number in self._served.items() if log in wanted}
        requests: list[tuple[RunDir, dict[str, Any]]] = []
        for log in sorted(wanted, key=lambda log: self._served.get(log, 0)):
            request = _request(wanted[log], is_over=log in self._over, look=log not in self._sure)
            if request is None or self._tries.get(log, 0) >= MOST_TRIES:
                self._over.pop(log, None)
                self._tries.pop(log, None)
            elif len(requests) < AT_ONCE:
                requests.append((wanted[log], request))
        if requests:
            self._begin(requests)
        self._again_s = self.clock() + EVERY_S

    def close(self) -> None:
        """End a pass that is under way; a new agent begins it again."""
        if self._pass is not None:
            self._end(self._pass)

    def _begin(self, requests: Sequence[tuple[RunDir, dict[str, Any]]]) -> None:
        answer = tempfile.TemporaryFile()  # noqa: SIM115 - the pass closes it
        with tempfile.TemporaryFile() as asked:
            asked.write(json.dumps({"logs": [request for _, request in requests]}).encode())
            asked.seek(0)
            process = subprocess.Popen(
                [*self.command, "keep", "-o", "json"],
                env=dict(self.environ),
                stdin=asked,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C at the terminal is for the agent
                preexec_fn=tether(),  # noqa: PLW1509 - two system calls, no lock is taken
            )
        folders = {str(folder.log): folder for folder, _ in requests}
        self._passes += 1
        self._served |= dict.fromkeys(folders, self._passes)
        self._sure -= set(folders)  # until the answer is noted
        self._pass = _Pass(process, folders, answer, self.clock() + LONGEST_S)

    def _end(self, ended: _Pass) -> None:
        self._pass = None
        kill_or_leave(ended.process)
        with ended.answer as answer:
            answer.seek(0)
            said = answer.read()
        try:
            answers = {str(answer["log"]): answer for answer in json.loads(said)["logs"]}
        except (ValueError, KeyError, TypeError):
            words = said.decode(errors="replace").strip()[-_LAST_CHARS:]
            _log.warning("logs could not be kept (%s): %s", ended.process.returncode, words or "no answer")
            answers = {}
        for log, folder in ended.folders.items():
            answer_of = answers.get(log)
            if answer_of is None or answer_of["problem"]:
                self._tries[log] = self._tries.get(log, 0) + 1
            else:
                self._tries.pop(log, None)
            if answer_of is None:
                continue
            if answer_of["problem"]:
                _log.warning("%s: %s", log, answer_of["problem"])
            try:
                write_atomically(folder.kept_log, KeptTo(end=int(answer_of["end"])).model_dump_json())
            except OSError as error:
                _log.warning("%s: %s", folder.kept_log, error)
                continue
            if not answer_of["problem"]:
                self._sure.add(log)


def kept_to(folder: RunDir) -> int:
    """Return how many bytes of a run's log are kept."""
    try:
        noted = read_document(folder.kept_log, KeptTo)
    except StorageDenied:
        return 0  # it is kept anew
    return noted.end if noted is not None else 0


def _request(folder: RunDir, *, is_over: bool, look: bool) -> dict[str, Any] | None:
    """What is to be kept of a run; None when it is nothing, or nowhere, or where the run has not claimed the place."""
    start = kept_to(folder)
    try:
        if folder.log.stat().st_size <= start or read_progress(folder.progress) is None:
            return None
        config = TrainingConfig.model_validate_json(folder.config.read_bytes())
    except (OSError, ValidationError):
        return None
    address = config.checkpoint.uri or ""
    if "://" not in address or address.startswith("file:"):
        return None
    return {
        "log": str(folder.log),
        "address": address,
        "profile": config.storage.profile,
        "owner": config.identity.uid,
        "start": start,
        "look": look,
        "is_over": is_over,
    }
