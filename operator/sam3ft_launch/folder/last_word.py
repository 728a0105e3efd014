"""What launcher and trainer left behind, read without raising: these files may be missing at any moment."""

import time
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.termination import Termination
from sam3ft_api.worker import Progress


def read_last_word(path: Path) -> Termination | None:
    """Return the launcher's termination message, None when it left none that can be read."""
    try:
        return Termination.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def read_progress(path: Path) -> Progress | None:
    """Return the newest progress, None before the first."""
    try:
        return Progress.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def read_commit_step(progress_path: Path) -> int | None:
    """Return the step of the newest commit that the run has reported, None before the first."""
    progress = read_progress(progress_path)
    return progress.checkpoint_step if progress else None


def heartbeat_age_s(progress_path: Path) -> float | None:
    """Return how long ago the run last reported progress, seconds; None before the first report."""
    try:
        return max(0.0, time.time() - progress_path.stat().st_mtime)
    except FileNotFoundError:
        return None
