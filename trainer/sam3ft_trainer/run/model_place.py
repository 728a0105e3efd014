"""Where the initial weights lie on this machine: those of a bucket are fetched once per node, others read in place.

    s3://models/sam3 -> NODE'S CACHE/models/NAME/   a copy whose every byte was hashed when it came
                                        NAME.lock   held while one process fetches and the others of the node wait
                                        NAME.users  held, shared, by every process that may still read the copy

A name stands for exactly the files that the bucket lists: a model that was replaced there is fetched anew.
"""

import atexit
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from transformers import Sam3Config

from sam3ft_api.errors import ModelUnusable, StorageDenied
from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import ENV_CACHE_DIR, ENV_WORK_DIR
from sam3ft_trainer.export.publish import sha256_of
from sam3ft_trainer.model import hub
from sam3ft_trainer.model.load import LoadedModel, inspect_model, load_model, read_model_config
from sam3ft_trainer.model.preset_sizes import PRESET_SCHEME
from sam3ft_trainer.run.model_files import Files, Tell, fetch_headers, fetch_whole, list_model, name_of
from sam3ft_trainer.store.access import data_access
from sam3ft_trainer.store.objects import Store, with_patience
from sam3ft_trainer.store.uri import Address, open_store, parse_address

MODELS = "models"
"""Folder of the copies, below the node's cache."""
_HASHES = "sam3ft-hashes.json"
"""SHA-256 by name, in each copy; written last."""
_POLL_S = 1.0
_ROOM = 1.02
"""Room asked for, as a multiple of the files."""


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """What `load_model` is to read.

    Attributes:
        uri: a preset, an address of the Hub, or a folder on this machine.
        origin: address in a bucket whose copy the folder is; empty when `uri` says where the model comes from.
        is_fresh: the copy was fetched for this call.
        use: descriptor that keeps others from removing the copy, open until this process ends; None without a copy.
    """

    uri: str
    origin: str = ""
    is_fresh: bool = False
    use: int | None = None

    def load(self, config: TrainingConfig, *, device: torch.device) -> LoadedModel:
        """Load the model as a run does; raises as `load_model`."""
        with self.named():
            return load_model(
                self.uri,
                config.model,
                resolution=config.scratch.resolution,
                device=device,
                seed=config.scratch.seed_value,
                origin=self.origin,
            )

    def architecture(self, config: TrainingConfig) -> Sam3Config:
        """Read the architecture as a run has it; raises as `read_model_config`."""
        with self.named():
            return read_model_config(self.uri, config.model, resolution=config.scratch.resolution)

    def inspect(self, config: TrainingConfig) -> tuple[str, Sam3Config]:
        """Return a line about the model and its architecture; raises as `inspect_model`."""
        with self.named():
            line, architecture = inspect_model(self.uri, config.model, resolution=config.scratch.resolution)
        return (line.replace(self.uri, self.origin, 1) if self.origin else line), architecture

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let errors inside speak of the bucket, not of the copy that nobody has heard of."""
        try:
            yield
        except ModelUnusable as error:
            if not self.origin:
                raise
            raise ModelUnusable(str(error).replace(self.uri, self.origin)) from error


def place_model(
    uri: str, config: TrainingConfig, environ: Mapping[str, str], *, tell: Tell | None = None
) -> ModelPlace:
    """Return where a model can be read on this machine, fetching it first when it lies in a bucket.

    The copy is kept in the node's cache, without one in the run's work folder, without that until this process ends.
    Of several processes one fetches, the others wait and use the same copy. It is hashed again before each use.

    Args:
        uri: as `model.uri`.
        config: storage profile and outage budget of the run.
        environ: variables of the process: credentials, SAM3FT_CACHE_DIR, SAM3FT_WORK_DIR.
        tell: told of (bytes fetched, bytes in all) while a copy is made, of (0, 0) while another process makes it.

    Raises:
        InvalidConfig: the address is malformed, or there is no such storage profile.
        ModelUnusable: the bucket holds no model, or other bytes than its manifest says.
        StorageDenied: access is refused, there is no such bucket, or no room here.
        StorageUnavailable: no answer within the outage budget.
    """
    address = bucket_address(uri)
    if address is None:
        return ModelPlace(uri)
    outage_s = config.runtime.outage_s
    store = _opened(address, config, environ)
    files = list_model(store, outage_s=outage_s)
    name = name_of(files, address=store.address, endpoint=store.endpoint)
    base = _base(environ)
    try:
        return _copy_of(
            base,
            name,
            store,
            files,
            lambda folder: fetch_whole(store, files, folder, outage_s=outage_s, tell=tell),
            lambda: None if tell is None else tell(0, 0),
        )
    except OSError as error:
        raise StorageDenied(
            f"{base}: a copy of {address} cannot be kept there ({error.strerror or error}); name another folder with "
            f"{ENV_CACHE_DIR}"
        ) from error


@contextmanager
def model_headers(uri: str, config: TrainingConfig, environ: Mapping[str, str]) -> Iterator[ModelPlace]:
    """Give what describes a model without its weights, for planning and checking; raises as `place_model`.

    Of a bucket some hundred kilobytes are fetched, into a folder that goes away afterwards.
    """
    address = bucket_address(uri)
    if address is None:
        yield ModelPlace(uri)
        return
    store = _opened(address, config, environ)
    files = list_model(store, outage_s=config.runtime.outage_s)
    with tempfile.TemporaryDirectory(prefix="sam3ft-model-") as folder:
        fetch_headers(store, files, Path(folder), outage_s=config.runtime.outage_s)
        yield ModelPlace(folder, str(address))


def bucket_address(uri: str) -> Address | None:
    """Return the address of a model in a bucket; None for folders, presets and the Hub.

    Raises:
        InvalidConfig: an address of no known kind.
    """
    if uri.startswith((PRESET_SCHEME, hub.SCHEME)):
        return None
    address = parse_address(uri)
    return None if address.scheme == "file" else address


def _opened(address: Address, config: TrainingConfig, environ: Mapping[str, str]) -> Store:
    access = data_access(config.storage, environ)
    return with_patience(lambda: open_store(address, access=access), outage_s=config.runtime.outage_s)


def _base(environ: Mapping[str, str]) -> Path:
    """Return the folder of the copies: what outlives the worker first, what goes away with this process last."""
    for variable in (ENV_CACHE_DIR, ENV_WORK_DIR):
        if folder := environ.get(variable):
            return Path(folder) / MODELS
    scratch = tempfile.mkdtemp(prefix="sam3ft-model-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return Path(scratch)


def _copy_of(
    base: Path, name: str, store: Store, files: Files, fetch: Callable[[Path], None], wait: Callable[[], None]
) -> ModelPlace:
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder, fresh = base / name, False
    use = os.open(base / f"{name}.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(use, fcntl.LOCK_SH)
        # All processes of a node hash at the same time; only those that find nothing, or damage, queue up.
        if not _is_intact(folder):
            with _locked(base / f"{name}.lock", wait):
                if not _is_intact(folder):
                    _fetch_into(folder, sum(info.size for info in files.values()), fetch)
                    fresh = True
        os.utime(use)
    except BaseException:
        os.close(use)
        raise
    return ModelPlace(str(folder), store.address, fresh, use)


@contextmanager
def _locked(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock of the node; `wait` is called every second as long as another process has it."""
    with path.open("ab") as lock:
        while not _try_lock(lock):
            wait()
            time.sleep(_POLL_S)
        yield


def _try_lock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fetch_into(folder: Path, size: int, fetch: Callable[[Path], None]) -> None:
    """Make the copy beside its place, and put it there when it is whole; what was there before is removed."""
    _sweep(folder.parent, folder.name)
    shutil.rmtree(folder, ignore_errors=True)
    _make_room(folder.parent, size)
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(mode=0o700)
        fetch(part)
        hashes = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
        (part / _HASHES).write_text(json.dumps(hashes))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sweep(base: Path, own: str) -> None:
    """Remove what killed processes have left half-fetched; whoever fetches now holds the lock of that name."""
    for part in base.glob("*.part"):
        name = part.name.partition(".")[0]
        with (base / f"{name}.lock").open("ab") as lock:
            if name == own or _try_lock(lock):
                shutil.rmtree(part, ignore_errors=True)


def _is_intact(folder: Path) -> bool:
    """Say whether a copy is there whose every byte is as it was fetched.

    Raises:
        OSError: it is there, and cannot be read.
    """
    try:
        hashes = json.loads((folder / _HASHES).read_text())
        return all(sha256_of(folder / name) == known for name, known in hashes.items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _make_room(base: Path, size: int) -> None:
    """Remove copies that nobody uses, the longest unused first, until there is room.

    Raises:
        StorageDenied: there still is not.
    """
    needed = int(size * _ROOM)
    unused = sorted(base.glob("*.users"), key=lambda path: path.stat().st_mtime)
    for mark in unused:
        if shutil.disk_usage(base).free >= needed:
            return
        with suppress(OSError), mark.open("ab") as use:
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(mark.with_suffix(""), ignore_errors=True)  # the mark stays: others may be opening it
    free = shutil.disk_usage(base).free
    if free < needed:
        raise StorageDenied(
            f"{base}: the model has {size:,} bytes and {free:,} are free; free some space, or name another folder with "
            f"{ENV_CACHE_DIR}"
        )
