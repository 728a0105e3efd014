"""Puts the launcher together from its options."""

import os
import time
import uuid
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_api.tokens import take_token
from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import PROGRESS_FILE
from sam3ft_trainer.run.launcher.assembly import make_agent
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
        return make_agent(options, config, folder, link, requests, speaker, read_progress=read_progress).run()
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


def _make_folder(root: Path) -> WorkFolder:
    try:
        return WorkFolder(root)
    except OSError as error:
        raise StorageDenied(
            f"the work folder {root} cannot be made: {error.strerror}; name a writable folder with --work-dir"
        ) from error
