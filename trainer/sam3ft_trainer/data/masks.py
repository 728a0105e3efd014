"""COCO segmentations: checking polygons and run lengths before anything decodes them, and decoding.

pycocotools trusts its input: run lengths that exceed the image write past the mask it allocates. So every segmentation
is checked here first, from untrusted JSON to a `Segmentation` that is safe to decode.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask


class BadSegmentation(ValueError):
    """A segmentation that cannot be decoded; the message continues "annotation N has ..."."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A checked segmentation: polygons, or compressed run lengths, never both.

    Attributes:
        polygons: float64 [2k] arrays of x, y in pixels, k >= 3.
        counts: run lengths in COCO's compressed text form, which cover the image exactly.
    """

    polygons: tuple[npt.NDArray[np.float64], ...] = ()
    counts: bytes = b""

    def box_xywh(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the tight box in pixels: of the corner points, or of the set pixels (0, 0, 0, 0 without any)."""
        if self.counts:
            x, y, w, h = (float(v) for v in coco_mask.toBbox({"size": [height, width], "counts": self.counts}))
            return x, y, w, h
        points = np.concatenate(self.polygons).reshape(-1, 2)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return float(left), float(top), float(right - left), float(bottom - top)

    def encoded(self, height: int, width: int) -> dict[str, Any]:
        """Return the mask as pycocotools' RLE: `size` [height, width] and `counts` bytes."""
        if self.counts:
            return {"size": [height, width], "counts": self.counts}
        parts = coco_mask.frPyObjects([polygon.tolist() for polygon in self.polygons], height, width)
        merged: dict[str, Any] = coco_mask.merge(parts)
        return merged

    def decode(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Return the mask, uint8 [height, width] of 0 and 1; polygons are rasterised as the COCO tools do."""
        mask: npt.NDArray[np.uint8] = np.ascontiguousarray(coco_mask.decode(self.encoded(height, width)))
        return mask


def read_segmentation(value: Any, height: int, width: int) -> Segmentation | None:
    """Return a checked segmentation, or None where the value says that there is none (null, [], {}).

    Args:
        value: the JSON value of `segmentation`.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        BadSegmentation: a polygon has fewer than 3 points or an odd number of coordinates, run lengths do not cover
            the image exactly, or the value is neither form.
    """
    if not value and isinstance(value, list | dict | None):
        return None
    if isinstance(value, list):
        return Segmentation(polygons=tuple(_polygon(points) for points in value))
    if isinstance(value, dict):
        return Segmentation(counts=_run_lengths(value, height, width))
    raise BadSegmentation(f"a segmentation that is {type(value).__name__}; allowed are polygons and RLE")


def _polygon(points: Any) -> npt.NDArray[np.float64]:
    if not isinstance(points, list) or not all(type(value) in (int, float) for value in points):
        raise BadSegmentation("a polygon that is no list of numbers; write [[x1, y1, x2, y2, x3, y3, ...]]")
    if len(points) % 2:
        raise BadSegmentation(f"a polygon with {len(points)} coordinates; x and y come in pairs")
    if len(points) < 6:
        raise BadSegmentation(f"a polygon with {len(points) // 2} points; at least 3 are needed")
    return np.asarray(points, dtype=np.float64)


def _run_lengths(value: dict[str, Any], height: int, width: int) -> bytes:
    size, counts = value.get("size"), value.get("counts")
    if size != [height, width]:
        raise BadSegmentation(f"an RLE of size {size}, but the image is [{height}, {width}] (height, width)")
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts):
            raise BadSegmentation("an RLE whose counts are not all whole numbers from 0 on")
        runs = np.asarray(counts, dtype=np.int64)
    elif isinstance(counts, str):
        runs = decode_runs(counts.encode("utf-8"))
    else:
        raise BadSegmentation(f"an RLE whose counts are {type(counts).__name__}; allowed are a list or a string")
    if (runs < 0).any():
        raise BadSegmentation(f"an RLE with a run of {int(runs.min())} pixels; runs are 0 or more")
    if runs.sum() != height * width:
        raise BadSegmentation(
            f"an RLE whose counts sum to {int(runs.sum())}, but the image has {height} x {width} pixels, "
            f"which is {height * width}"
        )
    if isinstance(counts, str):
        return counts.encode("ascii")
    compressed = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)["counts"]
    return bytes(compressed)


def decode_runs(text: bytes) -> npt.NDArray[np.int64]:
    """Return the run lengths of COCO's compressed text form.

    Each run is written in groups of 5 bits, lowest first, as characters from `0` on, bit 5 meaning "more follows" and
    bit 4 of the last group the sign; from the fourth run on, the difference to the run two before is written
    (`rleFrString` of the COCO API, github.com/cocodataset/cocoapi, common/maskApi.c).

    Raises:
        BadSegmentation: characters outside the alphabet, an unfinished or an overlong run.
    """
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if groups.size == 0 or (groups < 0).any() or (groups > 63).any():
        raise BadSegmentation("an RLE whose counts hold characters that no COCO tool writes")
    is_last = (groups & 32) == 0
    if not is_last[-1]:
        raise BadSegmentation("an RLE whose counts end within a number")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if (lengths > 7).any():
        raise BadSegmentation("an RLE with a run of more than 2**34 pixels")
    places = np.arange(groups.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 31) << (5 * places), starts)
    values -= np.where(groups[ends] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
