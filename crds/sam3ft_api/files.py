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


def write_last_word(path: Path, text: str) -> None:
    """Write a file that outlives this process, replacing it whole where that is possible.

    Kubernetes mounts the termination message itself, so that it cannot be replaced, and its folder may be read-only:
    the text is then written into the file.

    Args:
        path: the file; its folder is made if missing.
        text: whole content, written as UTF-8.

    Raises:
        OSError: neither way is possible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError:
        path.write_text(text, encoding="utf-8")
