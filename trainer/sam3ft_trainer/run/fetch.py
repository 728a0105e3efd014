"""Copying published weights: only the files that training reads, every byte hashed, never a pickle.

    source (Hub, folder, bucket) -> a folder on this machine -> checks -> a staged copy -> destination -> read back

The destination gets a manifest with the SHA-256 of every file, like an export, and appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3ft_api.errors import InvalidConfig, ModelUnusable, StorageDenied, StorageUnavailable
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.export.publish import MANIFEST, hash_files, publish, sha256_of, staging, write_manifest
from sam3ft_trainer.model import hub
from sam3ft_trainer.model.folder import read_config, weight_files
from sam3ft_trainer.model.load import inspect_model
from sam3ft_trainer.model.preset_sizes import PRESET_SCHEME
from sam3ft_trainer.run.model_files import fetch_whole, is_wanted, list_model, refuse_damaged
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.objects import NotFound, Store
from sam3ft_trainer.store.uri import Address, open_store, parse_address

KIND = "fetched model"
"""What a copy's manifest says that it is; an export's says nothing there."""
_PIECE = 16 << 20
_ROOM = 1.01
"""Room asked for at the destination, as a multiple of the files."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was copied.

    Attributes:
        source: exact address, with the commit for a Hub repository.
        destination: address of the copy.
        model: one line about it.
        files: size and SHA-256 by name.
        left_out: names at the source that were not copied.
        verified_by: what the bytes were compared with besides themselves; empty when the source has no hashes.
        seconds: wall-clock time.
    """

    source: str
    destination: str
    model: str
    files: dict[str, dict[str, Any]]
    left_out: tuple[str, ...]
    verified_by: str
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())


def fetch_model(
    source: str,
    destination: str,
    *,
    say: Say = lambda _: None,
    reading: Access | None = None,
    writing: Access | None = None,
) -> Fetched:
    """Copy a model into a folder or a bucket.

    Args:
        source: `hf://ORG/NAME[@REVISION]`, a folder, or a bucket address.
        destination: a folder or a bucket address; absent, empty, or an earlier copy, which is replaced.
        say: gets a line before each step that takes time.
        reading: how a bucket at the source is reached; None as in `open_store`.
        writing: the same for the destination.

    Raises:
        InvalidConfig: an address is malformed, or of a kind that cannot be copied.
        ModelUnusable: access to a gated repository was refused; only pickled weights; files missing, damaged, or of
            another kind of model.
        StorageDenied: refused, no room, or something else lies at the destination.
        StorageUnavailable: no answer, or the copy arrived damaged.
    """
    started = time.monotonic()
    target = _target(destination)
    _refuse_export(target, writing)
    with (
        tempfile.TemporaryDirectory(prefix="sam3ft-fetch-") as scratch,
        _source(source, Path(scratch), say, reading) as found,
    ):
        folder, origin = found
        if target.scheme == "file" and Path(target.path).resolve() == folder.resolve():
            raise InvalidConfig(f"source and destination are the same folder, {folder}; name another destination")
        names, left_out = choose_files(folder)
        verified_by = check_source(folder, names, is_hub=source.startswith(hub.SCHEME))
        resolution = read_config(folder).vision_config.backbone_config.image_size
        model, _ = inspect_model(str(folder), ModelConfig(), resolution=resolution)
        with staging(str(target), Path(scratch)) as staged:
            say(f"copying {len(names)} files")
            _copy(folder, names, staged)
            write_manifest(staged, {"kind": KIND, "source": origin})
            files = hash_files(staged)
            say(f"writing to {target}")
            publish(staged, str(target), access=writing)
        say("reading back")
        read_back(target, files, access=writing)
    about = model.removeprefix(str(folder)).lstrip(", ")
    return Fetched(origin, str(target), about, files, left_out, verified_by, time.monotonic() - started)


def choose_files(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return (names to copy, names left out), both sorted; of the weights only the safetensors that are the model.

    Raises:
        ModelUnusable: there are no safetensors, only pickled ones, or a shard is missing.
    """
    weights = {path.name for path in weight_files(folder)}
    present = {path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST}
    chosen = {name for name in present if is_wanted(name) and (not name.endswith(".safetensors") or name in weights)}
    return sorted(chosen), tuple(sorted(name for name in present - chosen if not name.startswith(".")))


def check_source(folder: Path, names: list[str], *, is_hub: bool) -> str:
    """Compare the files with the hashes that came with them, and return whose those were; "" without any.

    In the Hub's cache a file is a link to a blob that is named by its hash: SHA-256 for large files, git's for small.

    Raises:
        ModelUnusable: a file differs.
    """
    if (folder / MANIFEST).is_file():
        refuse_damaged(folder, str(folder))
        return MANIFEST
    if not is_hub:
        return ""
    damaged = [name for name in names if not _matches_blob(folder / name)]
    if damaged:
        raise ModelUnusable(
            f"{len(damaged)} files in the Hub's cache differ from what the Hub has ({', '.join(damaged[:3])}); delete "
            f"{folder.parent.parent} and fetch again"
        )
    return "the Hub's hashes" if any((folder / name).is_symlink() for name in names) else ""


def read_back(address: Address, files: dict[str, dict[str, Any]], *, access: Access | None = None) -> None:
    """Read every file at the destination again and compare its hash; `access` as in `open_store`.

    Raises:
        StorageUnavailable: a file arrived damaged.
    """
    store = open_store(address, access=access)
    wrong = [name for name, entry in files.items() if _sha256(_pieces(store, name)) != entry["sha256"]]
    if wrong:
        raise StorageUnavailable(f"{address}: {', '.join(sorted(wrong)[:3])} arrived damaged; fetch again")


def _target(destination: str) -> Address:
    if destination.startswith((hub.SCHEME, PRESET_SCHEME)):
        raise InvalidConfig(f"{destination!r} cannot be written to; the destination is a folder or a bucket address")
    return parse_address(destination)


def _refuse_export(address: Address, access: Access | None) -> None:
    """A copy may replace an earlier copy, which can be fetched again; never a model that somebody trained.

    Raises:
        StorageDenied: there is an export.
    """
    if address.scheme == "file" and not Path(address.path).is_dir():
        return
    try:
        manifest = json.loads(open_store(address, access=access).get(MANIFEST))
    except (NotFound, ValueError):
        return
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise StorageDenied(f"{address} holds an exported model; nothing is overwritten: name another destination")


@contextmanager
def _source(source: str, scratch: Path, say: Say, access: Access | None) -> Iterator[tuple[Path, str]]:
    """Give a folder on this machine with the source's files, and the exact address."""
    if source.startswith(PRESET_SCHEME):
        raise InvalidConfig(f"{source!r} has no files: a preset's weights are made from the seed when a run starts")
    if source.startswith(hub.SCHEME):
        say(f"fetching {source}")
        yield hub.fetch(source)
        return
    address = parse_address(source)
    if address.scheme == "file":
        folder = Path(address.path)
        if not folder.is_dir():
            raise StorageDenied(f"{folder} is not a folder; check the source address")
        yield folder, str(folder)
        return
    say(f"fetching {address}")
    yield _download(address, scratch / "source", say, access), str(address)


def _download(address: Address, folder: Path, say: Say, access: Access | None) -> Path:
    """Copy a bucket's files of interest, direct children of the prefix only."""
    store = open_store(address, access=access)
    files = list_model(store, outage_s=0.0)
    folder.mkdir()
    _require_room(folder, sum(info.size for info in files.values()))
    fetch_whole(store, files, folder, outage_s=0.0, tell=_Quarters(say))
    return folder


class _Quarters:
    """Says how far a download is, four times."""

    def __init__(self, say: Say) -> None:
        self._say, self._said = say, 0

    def __call__(self, arrived: int, total: int) -> None:
        """Take note of the bytes that have arrived."""
        if (quarter := 4 * arrived // max(1, total)) > self._said:
            self._said = quarter
            self._say(f"fetched {arrived:,} of {total:,} bytes")


def _copy(folder: Path, names: list[str], staged: Path) -> None:
    """Copy, comparing what was read with what was written.

    Raises:
        StorageDenied: no room, or a file cannot be read or written.
        StorageUnavailable: what was written reads back differently.
    """
    _require_room(staged, sum((folder / name).stat().st_size for name in names))
    try:
        for name in names:
            digest = hashlib.sha256()
            with (folder / name).open("rb") as there, (staged / name).open("wb") as here:
                while piece := there.read(_PIECE):
                    digest.update(piece)
                    here.write(piece)
                here.flush()
                os.fsync(here.fileno())
            if sha256_of(staged / name) != digest.hexdigest():
                raise StorageUnavailable(f"{staged / name} reads back other bytes than were written; check the disk")
    except OSError as error:
        raise StorageDenied(f"{error.filename or staged}: copying failed ({error.strerror})") from error


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size * _ROOM:
        raise StorageDenied(f"{folder}: the model has {size:,} bytes and {free:,} are free; free some space")


def _matches_blob(path: Path) -> bool:
    """Compare a file of the Hub's cache with the hash its blob is named by; plain files have none and pass."""
    if not path.is_symlink():
        return True
    name = path.resolve().name
    if len(name) == 64:
        return sha256_of(path) == name
    if len(name) == 40:
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == name
    return True


def _sha256(pieces: Iterator[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _pieces(store: Store, key: str) -> Iterator[memoryview]:
    size = store.head(key).size
    for start in range(0, size, _PIECE):
        length = min(_PIECE, size - start)
        piece = store.get_range(key, start, length)
        if len(piece) != length:
            raise StorageUnavailable(f"{store.address}, object {key!r} ended early, at byte {start + len(piece):,}")
        yield piece
