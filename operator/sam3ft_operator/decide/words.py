"""Text that comes from pods, made fit for a status: cut, and without characters that act on a terminal."""

import unicodedata

_KEPT_CONTROLS = frozenset("\n\t")


def cut(text: str, max_chars: int) -> str:
    """Return the text without control, format and surrogate characters (bidi among them), at most `max_chars` long."""
    safe = "".join(char for char in text if char in _KEPT_CONTROLS or unicodedata.category(char) not in _UNSAFE)
    return safe if len(safe) <= max_chars else safe[: max_chars - 1] + "…"


_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def span(seconds: float) -> str:
    """Return a length of time for people: 45s, 12m, 1h20m, 3d4h."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86_400, whole % 86_400 // 3600, whole % 3600 // 60
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m" if minutes else f"{whole}s"
