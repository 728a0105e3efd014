"""Which characters of other people's text may stand in a status, an event or a log."""

import unicodedata

_KEPT_CONTROLS = frozenset("\n\t")
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def without_controls(text: str, *, instead: str = "") -> str:
    """Return the text without control, format (bidi among them), surrogate, private and unassigned characters.

    Args:
        text: whatever was written; tab and newline stay.
        instead: what takes the place of each.
    """
    return "".join(
        char if char in _KEPT_CONTROLS or unicodedata.category(char) not in _UNSAFE else instead for char in text
    )
