"""Copying a finished folder into the run's store, hashed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from sam3ft_api.errors import StorageUnavailable
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.records import FileRecord
from sam3ft_trainer.store.slab import HASH_PIECE


def upload_folder(
    store: Store, folder: Path, *, prefix: str, patiently: Callable[[Callable[[], Any]], Any]
) -> tuple[FileRecord, ...]:
    """Copy all files below `folder` under `prefix`; returns them by name.

    Args:
        store: where to.
        folder: where from; files may be larger than memory.
        prefix: new and never used again.
        patiently: repeats a call through outages.

    Raises:
        FileNotFoundError: there is no file.
        StorageUnavailable: a file did not arrive whole, or no answer for the whole budget.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise FileNotFoundError(f"{folder} holds no file to copy")
    return tuple(_upload(store, path, f"{prefix}/{path.relative_to(folder).as_posix()}", patiently) for path in paths)


def _upload(store: Store, path: Path, key: str, patiently: Callable[[Callable[[], Any]], Any]) -> FileRecord:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(HASH_PIECE):
            hasher.update(piece)
    record = FileRecord(key=key, size=path.stat().st_size, xxh3_128=hasher.hexdigest(), group="export")
    patiently(lambda: store.put(key, path))
    arrived = patiently(lambda: store.head(key)).size
    if arrived != record.size:
        raise StorageUnavailable(f"{store.address}: {key} has {arrived:,} bytes, {record.size:,} were written")
    return record
