"""Puts the launcher together from its options."""

import os
import time
import uuid
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.tokens import take_token
from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import ENV_MICRO_BATCH_MAX, PROGRESS_FILE
from sam3ft_trainer.run.launcher.commands import Outcome
from sam3ft_trainer.run.launcher.files import WorkFolder
from sam3ft_trainer.run.launcher.follow import Speaker
from sam3ft_trainer.run.launcher.link import Identity, Link, progress_reader
from sam3ft_trainer.run.launcher.options import Options
from sam3ft_trainer.run.launcher.stop_requests import StopRequests

_LINGER_S = 2.0


def launch(options: Options, requests: StopRequests, speaker: Speaker) -> Outcome:
    """Run the workers to their end and return the outcome.

    Raises:
        InvalidConfig: the token or the config document is missing or wrong.
        StorageDenied: the work folder cannot be made.
    """
    started_unix_s = time.time()
    token = take_token(os.environ, attempt=options.attempt)
    config = read_config(options.config)
    folder = _make_folder(options.work_dir)
    identity = Identity(
        node=options.node,
        slot=options.slot,
        instance=uuid.uuid4().hex,
        started_unix_s=started_unix_s,
        attempt=options.attempt,
        token=token,
        addr=options.address,
        processes=options.processes,
    )
    progress = folder.root / PROGRESS_FILE
    read_progress = progress_reader(progress)
    link = Link(*options.coordinator, identity, read_progress=progress_reader(progress))
    link.start()
    try:
        # torch takes seconds to import; the coordinator knows of this node already.
        from sam3ft_trainer.run.launcher.assembly import make_agent  # noqa: PLC0415

        agent = make_agent(options, config, folder, link, requests, speaker, read_progress=read_progress)
        agent.run()
        return agent.outcome or Outcome(ExitCode.INTERNAL_ERROR, "The agent ended without an outcome.")
    finally:
        link.close(linger_s=_LINGER_S)


def read_config(path: Path) -> TrainingConfig:
    """Return the config document.

    Raises:
        InvalidConfig: it cannot be read, or is no valid `TrainingConfig`.
    """
    try:
        return TrainingConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidConfig(f"the config document {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise InvalidConfig(f"the config document {path} is wrong at {place}: {first['msg']}") from error


def inherited_micro_batch_max() -> int | None:
    """Return the bound of the micro-batch that stands in the environment; None without one.

    Raises:
        InvalidConfig: it is no positive whole number.
    """
    text = os.environ.get(ENV_MICRO_BATCH_MAX)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InvalidConfig(
            f"the environment variable {ENV_MICRO_BATCH_MAX} is {text!r}; a whole number from 1 is needed"
        )
    return int(text)


def _make_folder(root: Path) -> WorkFolder:
    try:
        return WorkFolder(root)
    except OSError as error:
        raise StorageDenied(
            f"the work folder {root} cannot be made: {error.strerror}; name a writable folder with --work-dir"
        ) from error
