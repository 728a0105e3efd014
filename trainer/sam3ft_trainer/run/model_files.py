"""The files of a model that lies in a bucket: those that training reads, fetched whole or as headers alone."""

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from sam3ft_api.errors import ModelUnusable, StorageDenied, StorageUnavailable
from sam3ft_trainer.export.publish import MANIFEST, sha256_of
from sam3ft_trainer.model import hub
from sam3ft_trainer.model.folder import INDEX, read_json
from sam3ft_trainer.store.objects import ObjectInfo, Store, with_patience

Tell = Callable[[int, int], None]
"""Told of (bytes fetched, bytes in all)."""
Files = Mapping[str, ObjectInfo]
"""By name, in the order of names."""
_PIECE_BYTES = 16 << 20
_THREADS = 8
"""One connection rarely fills a network; eight of 16 MiB keep 128 MiB in memory."""
_HEADER_BYTES = 100_000_000
"""What the safetensors format allows."""
_SHOWN = 5
_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*")
"""What a file beside others may be called; every published file is."""


def is_wanted(name: str) -> bool:
    """Say whether a file of a model folder is one that sam3ft reads: never a pickle, never code."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in hub.ALLOWED_FILES)


def list_model(store: Store, *, outage_s: float) -> dict[str, ObjectInfo]:
    """Return the files that matter directly below a store's root, with the manifest where there is one.

    Args:
        store: opened at the model's address.
        outage_s: how long an unanswered request is repeated, s.

    Raises:
        ModelUnusable: there is no `config.json`.
        StorageDenied, StorageUnavailable: as the store says.
    """
    present = with_patience(lambda: store.list_objects(""), outage_s=outage_s)
    infos = {info.key: info for info in present if _NAME.fullmatch(info.key)}
    wanted = {name: info for name, info in sorted(infos.items()) if is_wanted(name) or name == MANIFEST}
    if "config.json" not in wanted:
        others = ", ".join(sorted(infos)[:_SHOWN]) or "nothing"
        raise ModelUnusable(
            f"{store.address} has no config.json; it holds {others}. Name the prefix of a complete SAM 3 folder, or "
            "make one with `sam3ft model fetch`"
        )
    return wanted


def fetch_whole(store: Store, files: Files, folder: Path, *, outage_s: float, tell: Tell | None = None) -> None:
    """Fetch a model's files and hold them against its manifest, where there is one.

    Args:
        store: opened at the model's address.
        files: as `list_model` returned them.
        folder: existing and empty, on this machine.
        outage_s: how long an unanswered request is repeated, s.
        tell: told while bytes arrive.

    Raises:
        ModelUnusable: a file has other bytes than the manifest says.
        StorageDenied: refused, or the disk is full.
        StorageUnavailable: no answer for `outage_s` seconds, or a file changed while it was read.
    """
    small = [info for name, info in files.items() if not name.endswith(".safetensors")]
    _fetch(store, small, folder, outage_s, None)
    _fetch(store, _weights(files, folder), folder, outage_s, tell)
    _refuse_replaced(store, files, outage_s)
    refuse_damaged(folder, store.address)


def fetch_headers(store: Store, files: Files, folder: Path, *, outage_s: float) -> None:
    """As `fetch_whole`, of the weights only what says which tensors there are.

    A file of weights gets its full size, with a hole where the tensors would lie: it takes no room on the disk, names,
    shapes and dtypes can be read, and the values are zeros.
    """
    small = [info for name, info in files.items() if not name.endswith(".safetensors")]
    _fetch(store, small, folder, outage_s, None)
    for info in _weights(files, folder):
        header = _header(store, info, outage_s)
        with (folder / info.key).open("wb") as file:
            file.write(header)
            file.truncate(info.size)
    _refuse_replaced(store, files, outage_s)


def _refuse_replaced(store: Store, files: Files, outage_s: float) -> None:
    """Make sure that the files are still those that were listed: a new one of the same size would go unnoticed."""
    now = list_model(store, outage_s=outage_s)
    changed = sorted(name for name in {*now, *files} if now.get(name) != files.get(name))
    if changed:
        raise StorageUnavailable(
            f"{store.address}: {', '.join(changed[:3])} changed while the model was read; somebody writes it: start "
            "again once it is complete"
        )


def refuse_damaged(folder: Path, address: str) -> None:
    """Hold the files of a folder that sam3ft reads against its manifest; a folder without one passes.

    Args:
        folder: with the fetched files.
        address: where they come from, for the message.

    Raises:
        ModelUnusable: a file differs, or is missing.
    """
    if not (folder / MANIFEST).is_file():
        return
    listed = read_json(folder / MANIFEST).get("files")
    entries = listed if isinstance(listed, dict) else {}
    looked_at = {path.name for path in folder.iterdir()} | {name for name in entries if not _is_weights(name)}
    wrong = [
        name
        for name, entry in sorted(entries.items())
        if name in looked_at and _NAME.fullmatch(name) and is_wanted(name) and _differs(folder / name, entry)
    ]
    if wrong:
        raise ModelUnusable(
            f"{address}: {len(wrong)} files are missing or damaged ({', '.join(wrong[:3])}), as its {MANIFEST} says; "
            "copy the model there again, with `sam3ft model fetch`"
        )


def _is_weights(name: str) -> bool:
    """Weights that the index does not name are not fetched, and `weight_files` misses those that it does."""
    return name.endswith(".safetensors")


def _differs(path: Path, entry: Any) -> bool:
    return not isinstance(entry, dict) or not path.is_file() or sha256_of(path) != entry.get("sha256")


def _weights(files: Files, folder: Path) -> list[ObjectInfo]:
    """Return the files of weights: those that the index in `folder` names, else all."""
    weights = [info for name, info in files.items() if name.endswith(".safetensors")]
    if not (folder / INDEX).is_file():
        return weights
    named = read_json(folder / INDEX).get("weight_map")
    names = {name for name in named.values() if isinstance(name, str)} if isinstance(named, dict) else set()
    return [info for info in weights if info.key in names]


def _fetch(store: Store, infos: list[ObjectInfo], folder: Path, outage_s: float, tell: Tell | None) -> None:
    """Fetch files in pieces, several at once; the first failure ends it."""
    total, arrived = sum(info.size for info in infos), 0
    try:
        for info in infos:
            with (folder / info.key).open("wb") as file:
                file.truncate(info.size)
        pieces = [(info, start) for info in infos for start in range(0, info.size, _PIECE_BYTES)]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="model") as threads:
            under_way = [threads.submit(_fetch_piece, store, info, start, folder, outage_s) for info, start in pieces]
            try:
                for piece in under_way:
                    arrived += piece.result()
                    if tell is not None:
                        tell(arrived, total)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
    except OSError as error:
        raise StorageDenied(
            f"{folder}: the model of {total:,} bytes cannot be kept there ({error.strerror or error}); free some space"
        ) from error


def _fetch_piece(store: Store, info: ObjectInfo, start: int, folder: Path, outage_s: float) -> int:
    length = min(_PIECE_BYTES, info.size - start)
    data = _range(store, info, start, length, outage_s)
    with (folder / info.key).open("r+b", buffering=0) as file:
        file.seek(start)
        rest = data
        while rest:
            rest = rest[file.write(rest) :]
    return length


def _header(store: Store, info: ObjectInfo, outage_s: float) -> bytes:
    """Return the first part of a safetensors file: the length of its header, and the header."""
    start = _range(store, info, 0, min(8, info.size), outage_s)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(_HEADER_BYTES, info.size - 8):
        raise ModelUnusable(f"{store.address}/{info.key} is not a readable safetensors file; copy it there again")
    return bytes(_range(store, info, 0, 8 + length, outage_s))


def _range(store: Store, info: ObjectInfo, start: int, length: int, outage_s: float) -> memoryview:
    data = with_patience(partial(store.get_range, info.key, start, length), outage_s=outage_s)
    if len(data) != length:
        raise StorageUnavailable(
            f"{store.address}/{info.key} was listed with {info.size:,} bytes and ended early, at byte "
            f"{start + len(data):,}; it is being replaced: start again once it is complete"
        )
    return data


def name_of(files: Files, *, address: str, endpoint: str) -> str:
    """Return a name for exactly these files at this place: it changes when one of them is replaced."""
    facts = [[info.key, info.size, info.etag, info.modified_unix_s] for info in files.values()]
    return hashlib.sha256(json.dumps([address, endpoint, facts]).encode()).hexdigest()[:24]
