"""A checked annotation file as one file of columns: written once on a node, mapped by all its processes.

    magic, length of the header, hash of the header | header (JSON) | columns, each at a multiple of 64 bytes

The header names the columns with type, shape and place, and holds the hash of all of them, the categories, and what was
found while the annotations were read. Nothing in it can run code. Columns are mapped read-only, so that a node holds
them once, whatever its number of processes.
"""

import json
import struct
import uuid
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from sam3ft_trainer.data.index import Category, CocoIndex, SegmentationColumn
from sam3ft_trainer.data.report import Problem

INDEX_VERSION = 1
"""Raise it when `parse_coco` finds other things in the same file, or the layout changes: older files are rebuilt."""
_MAGIC = b"SAM3IDX1"
_START = struct.Struct("<8sq16s")
_ALIGNMENT = 64
_COLUMNS = (
    "image_ids",
    "sizes_hw",
    "starts",
    "annotation_ids",
    "category_rows",
    "boxes_m4",
    "areas",
    "is_crowd",
    "is_usable",
    "phrase_rows",
)
_SEGMENTATION_COLUMNS = ("coordinates", "polygon_starts", "first_polygon", "run_bytes", "run_starts")
_TEXTS = ("file_names", "own_phrases")
_TYPES = frozenset({"<i8", "<f8", "|b1", "|u1"})
Array = npt.NDArray[Any]


class UnusableIndex(Exception):
    """The file is missing, damaged, or of another version; it is to be built anew."""


def write_index(path: Path, index: CocoIndex, problems: tuple[Problem, ...]) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    columns = _columns_of(index)
    header, body_bytes = _header(index, problems, columns)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(_START.pack(_MAGIC, len(header), xxhash.xxh3_128_digest(header)))
            file.write(header)
            base = file.tell() + -file.tell() % _ALIGNMENT
            for place, array in zip(_places(columns), columns.values(), strict=True):
                file.write(bytes(base + place - file.tell()))
                file.write(array.data.cast("B") if array.size else b"")
            file.write(bytes(base + body_bytes - file.tell()))
        partial.rename(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def read_index(path: Path, *, digest: str) -> tuple[CocoIndex, tuple[Problem, ...]]:
    """Map the file and check every byte of it.

    Args:
        path: as given to `write_index`.
        digest: hex SHA-256 of the annotation file that it must be of.

    Raises:
        UnusableIndex: missing, cut short, changed, of another version or of another annotation file.
    """
    try:
        whole: Array = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise UnusableIndex(f"{path}: {error}") from error
    header, body = _checked(whole, path)
    if header["version"] != INDEX_VERSION or header["digest"] != digest:
        raise UnusableIndex(f"{path}: version {header['version']}, of {header['digest']}")
    columns = {name: _column(body, *entry) for name, entry in header["columns"].items()}
    fields: dict[str, Any] = {name: columns[name] for name in _COLUMNS}
    index = CocoIndex(
        digest=digest,
        categories=tuple(Category(*entry) for entry in header["categories"]),
        file_names=_texts(columns, "file_names"),
        own_phrases=_texts(columns, "own_phrases"),
        segmentations=SegmentationColumn(**{name: columns[name] for name in _SEGMENTATION_COLUMNS}),
        **fields,
    )
    return index, tuple(Problem(**{**entry, "examples": tuple(entry["examples"])}) for entry in header["problems"])


def _columns_of(index: CocoIndex) -> dict[str, Array]:
    columns: dict[str, Array] = {name: getattr(index, name) for name in _COLUMNS}
    columns |= {name: getattr(index.segmentations, name) for name in _SEGMENTATION_COLUMNS}
    for name in _TEXTS:
        encoded = [text.encode("utf-8", "surrogatepass") for text in getattr(index, name)]
        columns[f"{name}.bytes"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        columns[f"{name}.starts"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {name: np.ascontiguousarray(column) for name, column in columns.items()}


def _places(columns: dict[str, Array]) -> list[int]:
    places, place = [], 0
    for array in columns.values():
        places.append(place)
        place += array.nbytes + -array.nbytes % _ALIGNMENT
    return places


def _header(index: CocoIndex, problems: tuple[Problem, ...], columns: dict[str, Array]) -> tuple[bytes, int]:
    """Return the header and the number of bytes of all columns with what lies between them."""
    sums, total = xxhash.xxh3_128(), 0
    for array in columns.values():
        gap = -array.nbytes % _ALIGNMENT
        sums.update(array.data.cast("B") if array.size else b"")
        sums.update(bytes(gap))
        total += array.nbytes + gap
    document = {
        "version": INDEX_VERSION,
        "digest": index.digest,
        "body": [total, sums.hexdigest()],
        "categories": [list(category) for category in index.categories],
        "problems": [asdict(problem) for problem in problems],
        "columns": {
            name: [array.dtype.str, list(array.shape), place]
            for (name, array), place in zip(columns.items(), _places(columns), strict=True)
        },
    }
    return json.dumps(document).encode(), total


def _checked(whole: Array, path: Path) -> tuple[dict[str, Any], Array]:
    """Return header and columns of a file whose hashes agree.

    Raises:
        UnusableIndex: they do not, or the file is no such file.
    """
    if len(whole) < _START.size:
        raise UnusableIndex(f"{path}: cut short")
    magic, header_bytes, header_hash = _START.unpack(whole[: _START.size].tobytes())
    header = whole[_START.size : _START.size + max(0, header_bytes)].tobytes()
    if magic != _MAGIC or len(header) != header_bytes or xxhash.xxh3_128_digest(header) != header_hash:
        raise UnusableIndex(f"{path}: the header is damaged")
    document: dict[str, Any] = json.loads(header)
    end = _START.size + header_bytes
    body = whole[end + -end % _ALIGNMENT :]
    total, body_hash = document["body"]
    if len(body) != total or xxhash.xxh3_128_hexdigest(body.data) != body_hash:
        raise UnusableIndex(f"{path}: the columns are damaged")
    return document, body


def _column(body: Array, kind: str, shape: list[int], place: int) -> Array:
    if kind not in _TYPES:
        raise UnusableIndex(f"a column of type {kind!r}")
    dtype = np.dtype(kind)
    count = int(np.prod(shape, dtype=np.int64))
    return np.asarray(body[place : place + count * dtype.itemsize]).view(dtype).reshape(shape)


def _texts(columns: dict[str, Array], name: str) -> tuple[str, ...]:
    content, starts = columns[f"{name}.bytes"].tobytes(), columns[f"{name}.starts"].tolist()
    return tuple(content[start:stop].decode("utf-8", "surrogatepass") for start, stop in pairwise(starts))
