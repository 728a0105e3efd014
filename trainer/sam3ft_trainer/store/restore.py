"""Reading a commit back: every byte is hashed on its way into the tensors, and nothing is trusted before."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xxhash
from torch import Tensor

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.store.layout import (
    TensorSpec,
    check_same_tensors,
    header_length,
    neighbours,
    parse_header,
    specs_of,
)
from sam3ft_trainer.store.nodecopy import NodeCopy
from sam3ft_trainer.store.objects import NotFound, Store, with_patience
from sam3ft_trainer.store.records import CommitEntry, FileRecord
from sam3ft_trainer.store.slab import HASH_PIECE

READ_BYTES = 16 << 20
"""Neighbouring tensors are read together up to this size; memory beyond the tensors is about this, per reader."""
_HEAD_BYTES = 1 << 18
"""What is read first of a file; its header, unless that is longer."""
_READERS = 4
STATELESS = frozenset({"index"})
"""Groups of files that hold no tensors of the state."""


class Damaged(Exception):
    """A file of a commit is missing, has another size or another content."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files of one run.

    Attributes:
        store: rooted at the run's address.
        outage_s: how long an unanswered request is repeated, s.
        copy: this node's copy, from which a file is taken when it has the recorded size and hash.
    """

    store: Store
    outage_s: float = 900.0
    copy: NodeCopy | None = None

    def check_sizes(self, files: Sequence[FileRecord]) -> None:
        """Ask the store for every file.

        Raises:
            Damaged: a file is missing or has another size.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(self._check_size, files))

    def verify(self, file: FileRecord) -> None:
        """Read a file and compare its hash.

        Raises:
            Damaged: missing, shorter, or of another content.
        """
        hasher = xxhash.xxh3_128()
        for start in range(0, file.size, READ_BYTES):
            _update(hasher, self._range(file, start, min(READ_BYTES, file.size - start)))
        _compare(hasher, file)

    def load(self, file: FileRecord, targets: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
        """Copy the tensors of a file into `targets`, hashing the same bytes; one repetition if the hash differs.

        Tensors that `targets` lacks or holds in another shape are left out; the caller compares the returned specs.

        Raises:
            Damaged: missing, shorter, of another content, or no safetensors file. Targets may have been written.
        """
        specs = self._load_copy(file, targets)
        if specs is not None:
            return specs
        try:
            return self._load_once(file, targets)
        except Damaged:
            return self._load_once(file, targets)  # a fault on the way, unlike one at rest, is gone the second time

    def _load_copy(self, file: FileRecord, targets: Mapping[str, Tensor]) -> tuple[TensorSpec, ...] | None:
        if self.copy is None or (store := self.copy.source(file)) is None:
            return None
        try:
            specs = Reader(store, outage_s=0.0)._load_once(file, targets)  # noqa: SLF001 - of its own class
        except (Damaged, StorageDenied, StorageUnavailable) as found:
            self.copy.drop(file, str(found))
            return None
        self.copy.used(file)
        return specs

    def _load_once(self, file: FileRecord, targets: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
        hasher = xxhash.xxh3_128()
        head = self._range(file, 0, min(file.size, _HEAD_BYTES))
        try:
            wanted = 8 + header_length(head)
            head = head if len(head) >= wanted else self._range(file, 0, min(file.size, wanted))
            start, specs = parse_header(head, group=file.group, file_bytes=file.size)
        except ValueError as error:
            raise Damaged(f"{file.key}: not the safetensors file that was written ({error})") from error
        _update(hasher, head[:start])
        pieces = [(piece, sum(spec.num_bytes for spec in piece)) for piece in neighbours(specs, READ_BYTES)]
        staging = torch.empty(max((size for _, size in pieces), default=0), dtype=torch.uint8)
        for piece, size in pieces:
            data = self._range(file, start, size)
            _update(hasher, data)
            np.copyto(staging[:size].numpy(), np.frombuffer(data, dtype=np.uint8))  # torch wants writable memory
            _copy_out(staging, piece, targets)
            start += size
        _compare(hasher, file)
        return specs

    def _check_size(self, file: FileRecord) -> None:
        try:
            info = with_patience(lambda: self.store.head(file.key), outage_s=self.outage_s)
        except NotFound as error:
            raise Damaged(f"{file.key} is missing") from error
        if info.size != file.size:
            raise Damaged(f"{file.key} has {info.size:,} bytes, {file.size:,} were written")

    def _range(self, file: FileRecord, start: int, length: int) -> memoryview:
        if length == 0:
            return memoryview(b"")
        try:
            data = with_patience(lambda: self.store.get_range(file.key, start, length), outage_s=self.outage_s)
        except NotFound as error:
            raise Damaged(f"{file.key} is missing") from error
        if len(data) != length:
            raise Damaged(f"{file.key} ends at byte {start + len(data):,}, {file.size:,} were written")
        return data


def load_commit(
    reader: Reader, commit: CommitEntry, targets: Mapping[str, Tensor], *, groups: frozenset[str] | None = None
) -> None:
    """Load the tensors of a commit into allocated ones, verified.

    Args:
        reader: where from.
        commit: what.
        targets: allocated tensors by `group/name`: exactly those of the commit (of the chosen groups).
        groups: load these alone; None loads the whole state and verifies the other files too.

    Raises:
        Damaged: a file is missing or changed. Targets may have been written.
        CheckpointIncompatible: the commit holds other tensors.
        StorageUnavailable: no answer for the whole budget.
    """
    files = [file for file in commit.files if groups is None or file.group in groups]
    found = load_files(reader, files, targets)
    check_same_tensors(found, specs_of(targets), where=f"{reader.store.address}, step {commit.meta.step}")


def load_files(reader: Reader, files: Sequence[FileRecord], targets: Mapping[str, Tensor]) -> list[TensorSpec]:
    """Load some files of a commit, verified, several at a time; those without state are verified alone.

    Returns:
        The tensors that the files hold, also those that `targets` lacks or holds in another shape.

    Raises:
        Damaged: a file is missing or changed. Targets may have been written.
        StorageUnavailable: no answer for the whole budget.
    """
    stateful = [file for file in files if file.group not in STATELESS]
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(partial(reader.load, targets=targets), stateful))
    for file in files:
        if file.group in STATELESS:
            reader.verify(file)
    return [spec for specs in found for spec in specs]


def _copy_out(raw: Tensor, piece: Sequence[TensorSpec], targets: Mapping[str, Tensor]) -> None:
    begin = 0
    for spec in piece:
        part = raw[begin : begin + spec.num_bytes]
        part = part if begin % spec.dtype.itemsize == 0 else part.clone()
        begin += spec.num_bytes
        target = targets.get(spec.name)
        if target is not None and target.dtype == spec.dtype and tuple(target.shape) == spec.shape:
            with torch.no_grad():
                target.copy_(part.view(spec.dtype).view(spec.shape))


def _update(hasher: "xxhash.xxh3_128", data: memoryview) -> None:
    for start in range(0, len(data), HASH_PIECE):
        hasher.update(data[start : start + HASH_PIECE])


def _compare(hasher: "xxhash.xxh3_128", file: FileRecord) -> None:
    if hasher.hexdigest() != file.xxh3_128:
        raise Damaged(f"{file.key} has hash {hasher.hexdigest()}, {file.xxh3_128} was written")
