"""JSON that is nested too deeply for a reader, made shallow.

The API server keeps free-form fields of up to 10,000 levels; Python's reader gives up before 1,000. One resource like
that would make every list that holds it unreadable, so that whoever may create one could stop the operator for all.
"""

import re

MAX_LEVELS = 128
"""Levels that are kept. No object of ours has as many, and whatever has is refused by its own rules."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def shallow(content: bytes, *, max_levels: int = MAX_LEVELS) -> bytes:
    """Return JSON in which null stands for every list and object that is nested deeper; what is no JSON stays none.

    Args:
        content: JSON.
        max_levels: of nesting that are kept.
    """
    kept: list[bytes] = []
    level = begun = 0
    for token in _TOKEN.finditer(content):
        match token[0]:
            case b"{" | b"[":
                level += 1
                if level == max_levels + 1:
                    kept += [content[begun : token.start()], b"null"]
            case b"}" | b"]":
                level -= 1
                if level == max_levels:
                    begun = token.end()
            case _:
                pass
    if level <= max_levels:
        kept.append(content[begun:])
    return b"".join(kept)
