"""From a finished folder to its destination: whole or not at all, with the hash of every file.

A folder is renamed into place. In a bucket the manifest is written last: an export without `sam3ft-export.json` is an
unfinished one.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sam3ft_api.errors import ModelUnusable, StorageDenied, StorageUnavailable
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.objects import Store, with_patience
from sam3ft_trainer.store.records import ExportedFile, ExportRecord
from sam3ft_trainer.store.uri import open_store, parse_address

MANIFEST = "sam3ft-export.json"
"""Name of the manifest: facts of the export, and bytes and SHA-256 of every other file."""
Patience = Callable[[Callable[[], Any]], Any]
"""Repeats a call through outages and returns what it returned."""
_READ_BACK_BYTES = 1 << 25
_ATTEMPTS = 2
_STAGING = ".sam3ft-export-"


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file below `folder` but the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files
    }


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a complete folder."""
    document = {"format": 1, **facts, "files": hash_files(folder)}
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def verify_folder(folder: Path) -> dict[str, Any]:
    """Return the manifest of an exported folder after comparing every file with it.

    Raises:
        ModelUnusable: no manifest, or a file is missing or differs.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"{folder} has no readable {MANIFEST}: not an export, or an unfinished one") from error
    found = hash_files(folder)
    wrong = sorted(name for name, entry in manifest["files"].items() if found.get(name) != entry)
    if wrong:
        raise ModelUnusable(
            f"{folder}: {len(wrong)} files are missing or damaged ({', '.join(wrong[:3])}); export again"
        )
    return manifest


@contextmanager
def staging(destination: str, scratch: Path) -> Iterator[Path]:
    """Give a new empty folder for an export to `destination`, and remove what is left of it afterwards.

    Args:
        destination: folder path or URL.
        scratch: folder on this machine, of this run alone, for exports that go to a bucket.

    Raises:
        StorageDenied: the destination holds something that is not an export, or cannot be written.
    """
    address = parse_address(destination)
    parent = scratch
    for left_behind in scratch.glob(f"{_STAGING}*"):  # of an attempt that was killed; the folder is this run's alone
        shutil.rmtree(left_behind, ignore_errors=True)
    if address.scheme == "file":
        refuse_foreign(Path(address.path))
        parent = Path(address.path).parent
    folder = parent / f"{_STAGING}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageDenied(
            f"{parent}: the export cannot be written there ({error.strerror}); choose another"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    """Do nothing if `folder` is absent, empty, or an earlier export with nothing else in it.

    Raises:
        StorageDenied: it holds something else, which an export would destroy.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StorageDenied(f"{folder} is a file; choose another address")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    manifest = (folder / MANIFEST).read_bytes() if MANIFEST in present else None
    _refuse_names(str(folder), present, _manifest_names(manifest))


def _manifest_names(manifest: bytes | None) -> set[str]:
    """Files that an earlier export wrote; none without a readable manifest."""
    return set() if manifest is None else {MANIFEST, *_manifest_files(manifest)}


def _manifest_files(manifest: bytes) -> dict[str, Any]:
    """Files of an earlier export with sizes and hashes; empty if its manifest cannot be read."""
    try:
        files = json.loads(manifest)["files"]
    except (ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _refuse_names(where: str, present: set[str], allowed: set[str]) -> None:
    foreign = sorted(present - allowed)
    if foreign:
        raise StorageDenied(
            f"{where} holds {len(foreign)} files that no export of sam3ft wrote ({', '.join(foreign[:3])}); nothing is "
            "overwritten: choose another address, or move them away"
        )


def publish(staged: Path, destination: str, *, access: Access | None = None, outage_s: float = 0.0) -> str:
    """Move or upload a staged folder, and return its address; in a bucket every byte has been read back then.

    Args:
        staged: the folder, with its manifest.
        destination: folder path or URL.
        access: how a bucket is reached; None as in `open_store`.
        outage_s: how long an unanswered request is repeated, s.

    Raises:
        StorageDenied: refused by the store, or no room.
        StorageUnavailable: the store does not answer, or keeps other bytes than it was given; the staged folder is
            untouched, so that it can be tried again.
    """
    address = parse_address(destination)
    if address.scheme == "file":
        _rename(staged, Path(address.path))
    else:
        _upload(staged, open_store(address, access=access), partial(with_patience, outage_s=outage_s))
    return str(address)


def export_record(folder: Path, *, address: str) -> ExportRecord:
    """Return what a complete folder, its manifest included, will be known by at an address."""
    manifest = folder / MANIFEST
    files = {**hash_files(folder), MANIFEST: {"bytes": manifest.stat().st_size, "sha256": sha256_of(manifest)}}
    return ExportRecord(
        address=address,
        files=tuple(
            ExportedFile(name=name, size=entry["bytes"], sha256=entry["sha256"])
            for name, entry in sorted(files.items())
        ),
    )


def is_in_place(record: ExportRecord, *, access: Access | None = None) -> bool:
    """Say whether a recorded export still is where it was put: its manifest's content, and every file's size.

    Raises:
        StorageUnavailable: the store does not answer.
    """
    try:
        store = open_store(record.address, access=access)
        sizes = {info.key: info.size for info in store.list_objects("")}
        if any(sizes.get(file.name) != file.size for file in record.files):
            return False
        manifest = next(file for file in record.files if file.name == MANIFEST)
        return hashlib.sha256(store.get(MANIFEST)).hexdigest() == manifest.sha256
    except StorageDenied:
        return False


def _rename(staged: Path, target: Path) -> None:
    """Replace `target`; an earlier export is moved aside first and removed last."""
    refuse_foreign(target)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
    try:
        if target.exists():
            target.rename(aside)
        staged.rename(target)
    except OSError as error:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise StorageDenied(
            f"{target}: the export cannot be put there ({error.strerror}); choose another place"
        ) from error
    shutil.rmtree(aside, ignore_errors=True)


def _upload(staged: Path, store: Store, patiently: Patience) -> None:
    """Write every file, the manifest last; files of an earlier export that this one lacks go before that.

    Without a manifest, files of this export's names are what a broken upload left behind. An earlier export of the
    same content stays as it is.
    """
    files = hash_files(staged)
    present = {info.key: info.size for info in patiently(lambda: store.list_objects(""))}
    manifest = patiently(lambda: store.get(MANIFEST)) if MANIFEST in present else None
    earlier = _manifest_names(manifest)
    _refuse_names(store.address, {*present}, earlier | {*files})
    if manifest is not None and _manifest_files(manifest) == files and _sizes(files).items() <= present.items():
        return
    patiently(lambda: store.delete(sorted({*present} & {MANIFEST})))
    for name in sorted(files):
        _put_verified(store, name, staged / name, files[name]["sha256"], patiently)
    patiently(lambda: store.delete(sorted(earlier & {*present} - {*files} - {MANIFEST})))
    _put_verified(store, MANIFEST, staged / MANIFEST, sha256_of(staged / MANIFEST), patiently)


def _put_verified(store: Store, name: str, path: Path, sha256: str, patiently: Patience) -> None:
    """Write a file and read it back; once more if it is not the same. Not every store checks what it is sent."""
    for _ in range(_ATTEMPTS):
        patiently(lambda: store.put(name, path))
        if _sha256_of_object(store, name, path.stat().st_size, patiently) == sha256:
            return
    raise StorageUnavailable(f"{store.address}: {name} was accepted {_ATTEMPTS} times and does not read back the same")


def _sha256_of_object(store: Store, name: str, size: int, patiently: Patience) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, _READ_BACK_BYTES):
        digest.update(patiently(partial(store.get_range, name, start, min(_READ_BACK_BYTES, size - start))))
    return digest.hexdigest()


def _sizes(files: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return {name: entry["bytes"] for name, entry in files.items()}
