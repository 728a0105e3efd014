"""Small files that others read while they are written: replaced whole, never torn."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace `path` by `text` in one step: readers see the old content or the new, nothing between.

    The file is not flushed to the disk: it tells live processes something, it is not a record.

    Args:
        path: the file; its folder exists.
        text: whole content, written as UTF-8.
        mode: permission bits of the new file, before the umask.

    Raises:
        OSError: the folder is missing, not writable or full; the old content is then still there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
