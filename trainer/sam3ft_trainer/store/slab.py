"""One reusable piece of host memory in which a rank's files are laid out exactly as they are uploaded."""

from collections.abc import Mapping, Sequence

import torch
import xxhash
from torch import Tensor

from sam3ft_trainer.store.layout import ALIGNMENT, FilePlan

HASH_PIECE = 16 << 20
"""Bytes hashed at a time, so that other threads run in between."""


class Slab:
    """Host memory for one save, kept for the next ones; pinned where tensors come from a CUDA device.

    The staged files stay valid until the next `stage`.
    """

    def __init__(self) -> None:
        """Start empty; the first `stage` allocates."""
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._places: dict[str, tuple[int, int]] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return self._bytes.numel()

    def stage(self, plans: Sequence[FilePlan], tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors of `plans` into the slab, behind their headers; they may change once this returns.

        Args:
            plans: the files of this rank.
            tensors: values by `group/name`, on any device, in any memory layout.
        """
        self._places, end = {}, 0
        for plan in plans:
            self._places[plan.name] = (end, end + plan.num_bytes)
            end += plan.num_bytes + -plan.num_bytes % ALIGNMENT
        on_cuda = any(tensors[t.name].is_cuda for plan in plans for t in plan.tensors)
        if self._bytes.numel() < end:
            self._bytes = torch.empty(0, dtype=torch.uint8)  # let go of the old one first
            self._bytes = torch.empty(end, dtype=torch.uint8, pin_memory=on_cuda)
        with torch.no_grad():
            for plan in plans:
                self._stage_file(plan, tensors)
        if on_cuda:
            torch.cuda.synchronize()

    def view(self, name: str) -> memoryview:
        """Return the bytes of a staged file, in place."""
        begin, end = self._places[name]
        return self._bytes[begin:end].numpy().data

    def _stage_file(self, plan: FilePlan, tensors: Mapping[str, Tensor]) -> None:
        position = self._places[plan.name][0]
        header = torch.frombuffer(bytearray(plan.header), dtype=torch.uint8)
        self._bytes[position : position + len(plan.header)].copy_(header)
        position += len(plan.header)
        for spec in plan.tensors:
            place = self._bytes[position : position + spec.num_bytes]
            place.view(spec.dtype).view(spec.shape).copy_(tensors[spec.name].detach(), non_blocking=True)
            position += spec.num_bytes


def content_hash(data: memoryview) -> str:
    """Return the hex XXH3-128 of `data`."""
    hasher = xxhash.xxh3_128()
    for start in range(0, len(data), HASH_PIECE):
        hasher.update(data[start : start + HASH_PIECE])
    return str(hasher.hexdigest())
