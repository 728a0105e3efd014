"""Small files that others read while they are written: replaced whole, never torn."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step: readers see the old content or the new, nothing between.

    The file is not flushed to the disk: it tells live processes something, it is not a record.

    Raises:
        OSError: the folder is missing, not writable or full; the old content is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
