"""From a finished folder to its destination: whole or not at all, with the hash of every file.

A folder is renamed into place. In a bucket the manifest is written last: an export without `sam3ft-export.json` is an
unfinished one.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sam3ft_api.errors import ModelUnusable, StorageDenied
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.uri import Address, open_store, parse_address

MANIFEST = "sam3ft-export.json"
"""Name of the manifest: facts of the export, and bytes and SHA-256 of every other file."""
_READ_BYTES = 1 << 22


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file below `folder` but the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


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
        scratch: folder on this machine for exports that go to a bucket.

    Raises:
        StorageDenied: the destination holds something that is not an export, or cannot be written.
    """
    address = parse_address(destination)
    parent = scratch
    if address.scheme == "file":
        refuse_foreign(Path(address.path))
        parent = Path(address.path).parent
    folder = parent / f".sam3ft-export-{uuid.uuid4().hex}"
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
    try:
        return {MANIFEST, *json.loads(manifest)["files"]} if manifest is not None else set()
    except (ValueError, KeyError, TypeError):
        return {MANIFEST}


def _refuse_names(where: str, present: set[str], allowed: set[str]) -> None:
    foreign = sorted(present - allowed)
    if foreign:
        raise StorageDenied(
            f"{where} holds {len(foreign)} files that no export of sam3ft wrote ({', '.join(foreign[:3])}); nothing is "
            "overwritten: choose another address, or move them away"
        )


def publish(staged: Path, destination: str, *, access: Access | None = None) -> str:
    """Move or upload a staged folder, and return its address.

    Args:
        staged: the folder.
        destination: folder path or URL.
        access: how a bucket is reached; None as in `open_store`.

    Raises:
        StorageDenied: refused by the store, or no room.
        StorageUnavailable: the store does not answer; the staged folder is untouched, so that it can be tried again.
    """
    address = parse_address(destination)
    if address.scheme == "file":
        _rename(staged, Path(address.path))
    else:
        _upload(staged, address, access)
    return str(address)


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


def _upload(staged: Path, address: Address, access: Access | None) -> None:
    """Write every file, the manifest last; files of an earlier export that this one lacks go before that.

    Without a manifest, files of this export's names are what a broken upload left behind.
    """
    store = open_store(address, access=access)
    names = {*hash_files(staged)}
    present = {info.key for info in store.list_objects("")}
    earlier = _manifest_names(store.get(MANIFEST) if MANIFEST in present else None)
    _refuse_names(str(address), present, earlier | names)
    store.delete(sorted(present & {MANIFEST}))
    for name in sorted(names):
        store.put(name, staged / name)
    store.delete(sorted(earlier & present - names - {MANIFEST}))
    store.put(MANIFEST, staged / MANIFEST)
