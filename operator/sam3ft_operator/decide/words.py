"""What comes from pods, made fit for a status: text is cut and cannot act on a terminal, numbers are in bounds."""

from sam3ft_api import limits
from sam3ft_api.status import DatasetStatus
from sam3ft_api.text import without_controls


def cut(text: str, max_chars: int) -> str:
    """Return the text without control, format and surrogate characters (bidi among them), at most `max_chars` long."""
    safe = without_controls(text)
    return safe if len(safe) <= max_chars else safe[: max_chars - 1] + "…"


def rank_or_none(value: int | None) -> int | None:
    """Return a global rank that a status may hold; None for what is none."""
    return value if value is not None and 0 <= value < limits.MAX_WORLD_SIZE else None


def shell_code(value: int) -> int:
    """Return an exit code between 0 and 255, as a shell sees it; 255 for what no process can end with."""
    code = 128 - value if -128 < value < 0 else value
    return code if 0 <= code <= 255 else 255


_LONGEST_S = 1e9


def span(seconds: float) -> str:
    """Return a length of time for people: 45s, 12m, 1h20m, 3d4h."""
    whole = max(0, int(min(seconds, _LONGEST_S)))
    days, hours, minutes = whole // 86_400, whole % 86_400 // 3600, whole % 3600 // 60
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m" if minutes else f"{whole}s"


def account_of(dataset: DatasetStatus) -> str:
    """Return what the check of a data set has found, for people."""
    return (
        f"{dataset.images} images, {dataset.annotations} annotations, {dataset.categories} categories, "
        f"{dataset.problems} problems"
    )
