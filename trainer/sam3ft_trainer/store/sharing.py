"""Reading a commit once for all ranks: each reads its part, verified, and hands it to the others.

What is handed over follows from the commit and the tensors alone, so every rank makes the same calls in the same order
without being told. Nothing is handed over before all ranks have voted that their parts are whole: a rank that found
damage never leaves the others in a collective.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sam3ft_trainer.store.layout import FilePlan, TensorSpec, digest_of, neighbours, plan_files, specs_of
from sam3ft_trainer.store.records import CommitEntry, FileRecord
from sam3ft_trainer.store.restore import STATELESS

Broadcast = Callable[[Tensor, int], None]
"""Fills a contiguous tensor on every rank, in place, with that of one rank; a collective. `PeerLost` if one is gone."""
PIECE_BYTES = 16 << 20
"""Neighbouring tensors are handed over together up to this size."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who reads which file of a commit.

    Attributes:
        plans: the files of the state, in the order in which they are handed over.
        readers: rank by file name.
        digest: equal on all ranks that would make the same calls.
    """

    plans: tuple[FilePlan, ...]
    readers: Mapping[str, int]
    digest: str

    def reads(self, file: FileRecord, rank: int) -> bool:
        """Say whether a rank reads a file; those without state are rank 0's."""
        return self.readers.get(_name(file), 0) == rank

    def part_of(self, rank: int) -> tuple[TensorSpec, ...]:
        """Return the tensors that a rank reads."""
        return tuple(spec for plan in self.plans if self.readers[plan.name] == rank for spec in plan.tensors)


def share_commit(
    commit: CommitEntry, targets: Mapping[str, Tensor], *, world_size: int, max_file_bytes: int
) -> Sharing | None:
    """Say who reads what, or None if the files are not those that such tensors are written to: then all read all.

    A group of the size that wrote the commit reads what each of its ranks wrote, for that lies on its node where
    copies are kept; otherwise the largest file goes to the rank that has the least to read.
    """
    plans = plan_files(specs_of(targets), world_size=commit.world_size, max_file_bytes=max_file_bytes)
    stored = {(_name(file), file.size) for file in commit.files if file.group not in STATELESS}
    if {(plan.name, plan.num_bytes) for plan in plans} != stored:
        return None
    return Sharing(plans, _readers(plans, commit.world_size, world_size), digest_of(plans))


def spread(sharing: Sharing, targets: Mapping[str, Tensor], broadcast: Broadcast, *, rank: int) -> None:
    """Hand all tensors over from their readers; a collective. Values arrive bit for bit.

    Raises:
        PeerLost: a rank is gone; `targets` may have been written.
    """
    buffers: dict[torch.device, Tensor] = {}
    for plan in sharing.plans:
        source = sharing.readers[plan.name]
        for piece in neighbours(plan.tensors, PIECE_BYTES, place=lambda spec: targets[spec.name].device):
            device = targets[piece[0].name].device
            size = sum(spec.num_bytes for spec in piece)
            if size == 0:
                continue
            if device not in buffers or buffers[device].numel() < size:
                buffers[device] = torch.empty(max(size, PIECE_BYTES), dtype=torch.uint8, device=device)
            _hand_over(piece, targets, buffers[device][:size], broadcast, source, is_source=rank == source)


def _hand_over(
    piece: Sequence[TensorSpec],
    targets: Mapping[str, Tensor],
    buffer: Tensor,
    broadcast: Broadcast,
    source: int,
    *,
    is_source: bool,
) -> None:
    with torch.no_grad():
        if is_source:
            for spec, place in zip(piece, _places(piece, buffer), strict=True):
                place.copy_(targets[spec.name])
        broadcast(buffer, source)
        if not is_source:
            for spec, place in zip(piece, _places(piece, buffer), strict=True):
                targets[spec.name].copy_(place)


def _places(piece: Sequence[TensorSpec], buffer: Tensor) -> Iterator[Tensor]:
    """Views of the buffer, one for each tensor; wider dtypes come first within a piece, so that each is aligned."""
    begin = 0
    for spec in piece:
        yield buffer[begin : begin + spec.num_bytes].view(spec.dtype).view(spec.shape)
        begin += spec.num_bytes


def _readers(plans: Sequence[FilePlan], written_by: int, world_size: int) -> dict[str, int]:
    if written_by == world_size:
        return {plan.name: plan.rank for plan in plans}
    loads = [0] * world_size
    readers = {}
    for plan in sorted(plans, key=lambda p: (-p.num_bytes, p.name)):
        readers[plan.name] = loads.index(min(loads))
        loads[readers[plan.name]] += plan.num_bytes
    return readers


def _name(file: FileRecord) -> str:
    return file.key.rpartition("/")[2]
