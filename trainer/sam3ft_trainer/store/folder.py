"""What a folder needs beyond obstore: writes that survive a loss of power, child folders with half-written files."""

import os
import shutil
from contextlib import suppress
from pathlib import Path


def flush(root: Path, key: str) -> None:
    """Make a written file and its directory entries up to `root` survive a loss of power."""
    path = root / key
    _fsync(path)
    for parent in path.parents:
        _fsync(parent)
        if parent == root:
            break


def newest_writes(root: Path, prefix: str) -> dict[str, float]:
    """Return the direct child folders of a prefix by name, each with its newest write, seconds since the epoch."""
    base = root / prefix
    if not base.is_dir():
        return {}
    newest = {f"{prefix}/{child.name}": _newest_write(child) for child in sorted(base.iterdir()) if child.is_dir()}
    return {child: when for child, when in newest.items() if when is not None}


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything in it; what is gone already is no error."""
    shutil.rmtree(folder, ignore_errors=False, onerror=_ignore_missing)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest_write(folder: Path) -> float | None:
    """Newest modification below a folder, None if it is gone; another process may be deleting it meanwhile."""
    times: list[float] = []
    for parent, _, names in os.walk(folder, onerror=_raise_unless_missing):
        for path in [Path(parent), *(Path(parent, name) for name in names)]:
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
    return max(times, default=None)


def _raise_unless_missing(error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _ignore_missing(_function: object, _path: str, info: tuple[type[BaseException], BaseException, object]) -> None:
    _raise_unless_missing(info[1])
