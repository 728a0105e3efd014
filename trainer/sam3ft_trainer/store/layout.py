"""Which rank writes which tensors into which file, and the safetensors format of such a file.

The state is the same on every rank, so each writes a share of it. The plan depends only on names, shapes, dtypes and
the number of ranks; every rank computes the whole plan and they all get the same one. A file can be loaded by any
safetensors reader, and by any number of ranks.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from sam3ft_api.errors import CheckpointIncompatible

MAX_FILE_BYTES = 5_000_000_000
"""Files stay below the size that every store takes as one object."""
MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format for the JSON header."""
ALIGNMENT = 64
"""Files start at multiples of this in the slab, so that every tensor in it is aligned for its dtype."""

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The dtypes a state may hold, with their names in the format."""
_DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its values.

    Attributes:
        name: `group/name`, for example `model/backbone.weight`.
        dtype: one of `DTYPES`.
        shape: sizes of its dimensions; () for a scalar.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the values in bytes."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize

    @property
    def group(self) -> str:
        """The part of the name before the first slash."""
        return self.name.partition("/")[0]

    @property
    def key(self) -> str:
        """The part of the name after the first slash: its name inside the file."""
        return self.name.partition("/")[2]


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file to be written.

    Attributes:
        name: `GROUP-00001-of-00004.safetensors`.
        rank: who writes it.
        group: group of all its tensors.
        tensors: its tensors in the order of their bytes.
        header: the first bytes of the file: length and JSON header.
    """

    name: str
    rank: int
    group: str
    tensors: tuple[TensorSpec, ...]
    header: bytes

    @property
    def num_bytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + sum(tensor.num_bytes for tensor in self.tensors)


def specs_of(tensors: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """Return the specs of named tensors, by name.

    Raises:
        ValueError: a name without a group, or a dtype that the format does not know.
    """
    for name, tensor in tensors.items():
        group, _, key = name.partition("/")
        if not group.isidentifier() or not key:
            raise ValueError(f"tensor name {name!r}: expected GROUP/NAME, for example model/backbone.weight")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"tensor {name!r} has dtype {tensor.dtype}; allowed are {', '.join(map(str, DTYPES))}")
    return tuple(TensorSpec(name, tensors[name].dtype, tuple(tensors[name].shape)) for name in sorted(tensors))


def neighbours(
    specs: Sequence[TensorSpec], max_bytes: int, *, place: Callable[[TensorSpec], object] = lambda _spec: None
) -> Iterator[list[TensorSpec]]:
    """Yield runs of neighbouring tensors of at most `max_bytes`, a larger tensor alone.

    Args:
        specs: in the order of the file.
        max_bytes: of one run.
        place: what the tensors of one run have in common, for instance a device.
    """
    piece: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if piece and (size + spec.num_bytes > max_bytes or place(spec) != place(piece[0])):
            yield piece
            piece, size = [], 0
        piece.append(spec)
        size += spec.num_bytes
    if piece:
        yield piece


def plan_files(
    specs: Sequence[TensorSpec], *, world_size: int, max_file_bytes: int = MAX_FILE_BYTES
) -> tuple[FilePlan, ...]:
    """Share tensors among ranks: the largest first, each to the rank with the least bytes so far.

    Of equal ranks the lowest takes it. The largest share exceeds the smallest by at most the largest tensor.
    Groups never share a file.

    Args:
        specs: all tensors of the state.
        world_size: ranks that write.
        max_file_bytes: a rank's share of a group is split into several files above this; one tensor never is.
    """
    loads = [0] * world_size
    shares: list[list[TensorSpec]] = [[] for _ in range(world_size)]
    for spec in sorted(specs, key=lambda s: (-s.num_bytes, s.name)):
        rank = loads.index(min(loads))
        loads[rank] += spec.num_bytes
        shares[rank].append(spec)
    pieces = [
        (group, rank, piece)
        for rank, share in enumerate(shares)
        for group, members in groupby(sorted(share, key=lambda s: s.group), key=lambda s: s.group)
        for piece in _split(sorted(members, key=lambda s: (-s.dtype.itemsize, s.name)), max_file_bytes)
    ]
    pieces.sort(key=lambda item: (item[0], item[1]))
    totals = {group: sum(1 for _ in items) for group, items in groupby(pieces, key=lambda item: item[0])}
    numbers = dict.fromkeys(totals, 0)
    plans = []
    for group, rank, piece in pieces:
        numbers[group] += 1
        name = f"{group}-{numbers[group]:05d}-of-{totals[group]:05d}.safetensors"
        plans.append(FilePlan(name, rank, group, piece, _header(piece)))
    return tuple(plans)


def digest_of(plans: Sequence[FilePlan]) -> str:
    """Return a hash of a plan, by which ranks notice that their states differ in shape."""
    digest = hashlib.sha256()
    for plan in plans:
        digest.update(f"{plan.name} {plan.rank}\n".encode() + plan.header)
    return digest.hexdigest()


def model_index(plans: Sequence[FilePlan]) -> bytes:
    """Return the JSON index that lets Hugging Face loaders read the files of the group `model` as one."""
    files = [plan for plan in plans if plan.group == "model"]
    index = {
        "metadata": {"total_size": sum(tensor.num_bytes for plan in files for tensor in plan.tensors)},
        "weight_map": {tensor.key: plan.name for plan in files for tensor in plan.tensors},
    }
    return json.dumps(index, indent=1, sort_keys=True).encode()


def parse_header(data: bytes | memoryview, *, group: str, file_bytes: int) -> tuple[int, tuple[TensorSpec, ...]]:
    """Read the JSON header of a safetensors file.

    Args:
        data: the first bytes of the file, at least its whole header.
        group: put before the tensors' names.
        file_bytes: size of the file.

    Returns:
        Offset of the first tensor's bytes, and the specs in the order of their bytes.

    Raises:
        ValueError: not a safetensors header, tensors that overlap, leave holes or do not fill the file.
    """
    length = header_length(data)
    specs: list[TensorSpec] = []
    position = 0
    for (begin, end), name, dtype, shape in _header_rows(bytes(data[8 : 8 + length])):
        spec = TensorSpec(f"{group}/{name}", dtype, shape)
        if begin != position or end - begin != spec.num_bytes:
            raise ValueError(
                f"tensor {name!r} lies at {begin}..{end}, expected {position}..{position + spec.num_bytes}"
            )
        position = end
        specs.append(spec)
    if 8 + length + position != file_bytes:
        raise ValueError(f"the header describes {8 + length + position} bytes, the file has {file_bytes}")
    return 8 + length, tuple(specs)


def header_length(data: bytes | memoryview) -> int:
    """Return the length of the JSON header from the first 8 bytes of a file.

    Raises:
        ValueError: longer than the format allows.
    """
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes; the format allows {MAX_HEADER_BYTES}")
    return length


def check_same_tensors(there: Sequence[TensorSpec], here: Sequence[TensorSpec], *, where: str) -> None:
    """Compare the tensors of a checkpoint with those allocated for them.

    Raises:
        CheckpointIncompatible: a tensor is missing on either side, or has another shape or dtype; names the first few.
    """
    stored, wanted = {spec.name: spec for spec in there}, {spec.name: spec for spec in here}
    problems = [f"{name} is not in the checkpoint" for name in sorted(wanted.keys() - stored.keys())]
    problems += [f"{name} is in the checkpoint only" for name in sorted(stored.keys() - wanted.keys())]
    problems += [
        f"{name} is {_shape(stored[name])} there and {_shape(wanted[name])} here"
        for name in sorted(stored.keys() & wanted.keys())
        if stored[name] != wanted[name]
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointIncompatible(
            f"{where} holds another model or optimizer: {'; '.join(problems[:3])}{more}. "
            "Use the settings it was made with, or another checkpoint prefix"
        )


def _split(tensors: list[TensorSpec], max_file_bytes: int) -> list[tuple[TensorSpec, ...]]:
    files: list[list[TensorSpec]] = []
    size = max_file_bytes + 1
    for tensor in tensors:
        if size + tensor.num_bytes > max_file_bytes:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += tensor.num_bytes
    return [tuple(file) for file in files]


def _header(tensors: Sequence[TensorSpec]) -> bytes:
    rows: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.num_bytes
        rows[tensor.key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(rows, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _header_rows(text: bytes) -> list[tuple[tuple[int, int], str, torch.dtype, tuple[int, ...]]]:
    try:
        header = json.loads(text)
        return sorted(
            (
                ((int(begin), int(end)), name, _DTYPE_OF[row["dtype"]], tuple(int(size) for size in row["shape"]))
                for name, row in header.items()
                if name != "__metadata__"
                for begin, end in [row["data_offsets"]]
            ),
            key=lambda r: (r[0], r[1]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its header cannot be read: {error!r}") from error


def _shape(spec: TensorSpec) -> str:
    return f"{DTYPES[spec.dtype]} {list(spec.shape)}"
