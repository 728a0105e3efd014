"""Entry of one worker process: environment in, exit code and last word out.

    python -m sam3ft_trainer.run.worker

Reads torchrun's variables and those of `sam3ft_api.worker`. Keeps the default action of SIGTERM: a Python handler
would never run inside a collective, so "stop and save" arrives as a flag file and SIGTERM means "end now".
"""

import logging
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sam3ft_api import worker as contract
from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.files import write_atomically
from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import WorkerResult
from sam3ft_trainer.conf.document import parse_document
from sam3ft_trainer.imports import without_collection
from sam3ft_trainer.run.last_lines import LastLines
from sam3ft_trainer.store.objects import Store

MESSAGE_LIMIT = 2048
TRACEBACK_LIMIT = 16384
OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch words a failed allocation when it raises a plain RuntimeError, as its CPU allocator does."""


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """What the launcher tells this worker.

    Attributes:
        work_dir: existing folder of the run on this node.
        rank, local_rank, world_size: as torchrun sets them; 0, 0 and 1 without a launcher.
        attempt: from 1.
        flag_file, result_file, training_file: None without a launcher.
        micro_batch_max: bound after an out-of-memory end, None without one.
        cache_dir: folder on this node that outlives the worker, None without one.
        eviction_grace_s: from a request to stop to the kill, s; None when nobody can say.
    """

    work_dir: Path
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    attempt: int = 1
    flag_file: Path | None = None
    result_file: Path | None = None
    training_file: Path | None = None
    micro_batch_max: int | None = None
    cache_dir: Path | None = None
    eviction_grace_s: float | None = None

    @classmethod
    def read(cls, environ: dict[str, str]) -> Self:
        """Read the variables.

        Raises:
            InvalidConfig: the work folder is not given.
        """
        work_dir = environ.get(contract.ENV_WORK_DIR)
        if not work_dir:
            raise InvalidConfig(
                f"{contract.ENV_WORK_DIR} is not set; a worker is started by a launcher: use sam3ft run"
            )
        bound = environ.get(contract.ENV_MICRO_BATCH_MAX)
        flag, result = environ.get(contract.ENV_FLAG_FILE), environ.get(contract.ENV_RESULT_FILE)
        training = environ.get(contract.ENV_TRAINING_FILE)
        cache, grace = environ.get(contract.ENV_CACHE_DIR), environ.get(contract.ENV_EVICTION_GRACE_S)
        return cls(
            work_dir=Path(work_dir),
            rank=int(environ.get("RANK", "0")),
            local_rank=int(environ.get("LOCAL_RANK", "0")),
            world_size=int(environ.get("WORLD_SIZE", "1")),
            attempt=int(environ.get(contract.ENV_ATTEMPT, "1")),
            flag_file=Path(flag) if flag else None,
            result_file=Path(result) if result else None,
            training_file=Path(training) if training else None,
            micro_batch_max=int(bound) if bound else None,
            cache_dir=Path(cache) if cache else None,
            eviction_grace_s=float(grace) if grace else None,
        )

    def say_training(self) -> None:
        """Let the launcher know that this worker has started: it steps, and needs the cores for that alone.

        It is a hint: where it cannot be written, the launcher goes by its clock.
        """
        if self.training_file is not None:
            with suppress(OSError):
                self.training_file.touch()


class LastWord:
    """Keeps the newest facts for the worker's result and writes it once, whoever ends the process."""

    def __init__(self, environment: WorkerEnvironment, lines: LastLines | None = None) -> None:
        """Speak for the worker of `environment`, and keep its lines where they outlive it."""
        self._environment, self._lines = environment, lines
        self._store: Store | None = None
        self.step = 0
        self.checkpoint_step: int | None = None
        self.metrics: dict[str, float] = {}
        self.micro_batch: int | None = None

    def claimed(self, store: Store) -> None:
        """Take note of the run's store, which this worker's group has claimed: from now on it may write there."""
        self._store = store
        if self._lines is not None:
            self._lines.keep_left_behind(store)

    def keep_lines(self, code: int, words: str) -> None:
        """Keep the last lines, of a failure that they explain; may take some seconds, so it comes last."""
        if self._lines is not None:
            self._lines.keep_own(self._store, code, words)

    def write(self, code: int, message: str = "", trace: str = "") -> None:
        """Write the result file; without a launcher there is none and nothing is written."""
        path = self._environment.result_file
        if path is None:
            return
        result = WorkerResult(
            code=int(code),
            rank=self._environment.rank,
            message=message[:MESSAGE_LIMIT],
            traceback=trace[-TRACEBACK_LIMIT:],
            step=self.step,
            checkpoint_step=self.checkpoint_step,
            metrics=self.metrics,
            micro_batch=self.micro_batch,
        )
        write_atomically(path, result.model_dump_json())


def classify(error: BaseException) -> tuple[ExitCode, str]:
    """Return the exit code of an exception and the message that the user reads."""
    if isinstance(error, Sam3ftError):
        return error.code, str(error)
    text = str(error)
    # torch's class is not imported for this: its name is enough, and a worker that failed early may lack torch.
    if type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError | MemoryError) and any(word in text.lower() for word in OUT_OF_MEMORY_WORDS)
    ):
        return ExitCode.OUT_OF_MEMORY, f"out of memory: {text.splitlines()[0] if text else type(error).__name__}"
    return ExitCode.INTERNAL_ERROR, f"{type(error).__name__}: {text}"


def main() -> int:
    """Run one worker and return its exit code; the traceback of an internal error goes to standard error."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        environment = WorkerEnvironment.read(dict(os.environ))
    except InvalidConfig as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.code)
    lines = LastLines(environment.work_dir, rank=environment.rank, attempt=environment.attempt)
    code = _run_to_its_end(environment, LastWord(environment, lines))
    lines.close()
    return int(code)


def _run_to_its_end(environment: WorkerEnvironment, last_word: LastWord) -> ExitCode:
    try:
        _run(environment, last_word)
    except BaseException as error:  # noqa: BLE001 - the process edge: every end becomes an exit code
        code, message = classify(error)
        trace = traceback.format_exc() if code == ExitCode.INTERNAL_ERROR else ""
        sys.stderr.write(trace or f"{code.name.lower()}: {message}\n")
        last_word.write(code, message, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        last_word.keep_lines(code, trace or message)
        return code
    last_word.write(ExitCode.SUCCEEDED, "complete")
    return ExitCode.SUCCEEDED


def _run(environment: WorkerEnvironment, last_word: LastWord) -> None:
    config_path = os.environ.get(contract.ENV_CONFIG)
    if not config_path:
        raise InvalidConfig(f"{contract.ENV_CONFIG} is not set; it names the config document of the run")
    config = read_config(Path(config_path))
    with without_collection():
        from sam3ft_trainer.run.train import train  # noqa: PLC0415 - torch only after the document is known to be good

    train(config, environment, last_word)


def read_config(path: Path) -> TrainingConfig:
    """Read and validate a config document.

    Raises:
        InvalidConfig: the file is missing, is no JSON, or holds settings that are not allowed.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InvalidConfig(f"the config document {path} cannot be read: {error.strerror}") from error
    return parse_document(text)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of uploads or collectives that a lost peer left hanging must not hold the process: its result is written.
    os._exit(status)
