"""The annotations of one file as columns: numpy arrays and offsets instead of a million small objects."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sam3ft_trainer.data.masks import Segmentation

Ints = npt.NDArray[np.int64]
NO_PHRASE = -1


class Category(NamedTuple):
    """A COCO category.

    Attributes:
        id: as in the file.
        name: without surrounding white space, unique.
        supercategory: name of the parent, empty without one.
    """

    id: int
    name: str
    supercategory: str


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationColumn:
    """Segmentations of m annotations: polygons as one array of coordinates, run lengths as one array of bytes.

    Attributes:
        coordinates: float64, all polygons one after another.
        polygon_starts: int64 [polygons + 1], offsets into `coordinates`.
        first_polygon: int64 [m + 1], offsets into `polygon_starts`.
        run_bytes: uint8, all compressed run lengths one after another.
        run_starts: int64 [m + 1], offsets into `run_bytes`.
    """

    coordinates: npt.NDArray[np.float64]
    polygon_starts: Ints
    first_polygon: Ints
    run_bytes: npt.NDArray[np.uint8]
    run_starts: Ints

    @classmethod
    def of(cls, segmentations: list[Segmentation | None]) -> "SegmentationColumn":
        """Pack segmentations; None is an annotation without one."""
        polygons = [polygon for item in segmentations if item is not None for polygon in item.polygons]
        runs = [b"" if item is None else item.counts for item in segmentations]
        return cls(
            coordinates=np.concatenate(polygons) if polygons else np.zeros(0),
            polygon_starts=_offsets([len(polygon) for polygon in polygons]),
            first_polygon=_offsets([0 if item is None else len(item.polygons) for item in segmentations]),
            run_bytes=np.frombuffer(b"".join(runs), dtype=np.uint8),
            run_starts=_offsets([len(run) for run in runs]),
        )

    def has_mask(self) -> npt.NDArray[np.bool_]:
        """Return bool [m]: the annotation has a segmentation."""
        return (np.diff(self.first_polygon) > 0) | (np.diff(self.run_starts) > 0)

    def get(self, row: int) -> Segmentation | None:
        """Return the segmentation of one annotation."""
        runs = self.run_bytes[self.run_starts[row] : self.run_starts[row + 1]]
        if len(runs):
            return Segmentation(counts=runs.tobytes())
        bounds = self.polygon_starts[self.first_polygon[row] : self.first_polygon[row + 1] + 1]
        if len(bounds) < 2:
            return None
        return Segmentation(polygons=tuple(self.coordinates[start:stop] for start, stop in pairwise(bounds)))


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """A checked annotation file.

    Images are in id order; annotations are grouped by image, within one in the order of the file.

    Attributes:
        digest: hex SHA-256 of the file's bytes.
        categories: in id order.
        image_ids: int64 [n], ascending.
        sizes_hw: int64 [n, 2], height and width in pixels.
        file_names: n names as in the file.
        starts: int64 [n + 1], offsets of an image's annotations.
        annotation_ids: int64 [m].
        category_rows: int64 [m], row of the category in `categories`.
        boxes_m4: float64 [m, 4], x, y, w, h in pixels as in the file, or of the mask where there is no box.
        areas: float64 [m], `area` of the file, else w * h.
        is_crowd: bool [m].
        is_usable: bool [m]; False for a box of zero size or wholly outside its image.
        phrase_rows: int64 [m], row in `own_phrases`, or NO_PHRASE.
        own_phrases: unique noun phrases of annotations, in the order of the file.
        segmentations: m of them.
    """

    digest: str
    categories: tuple[Category, ...]
    image_ids: Ints
    sizes_hw: Ints
    file_names: tuple[str, ...]
    starts: Ints
    annotation_ids: Ints
    category_rows: Ints
    boxes_m4: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    is_crowd: npt.NDArray[np.bool_]
    is_usable: npt.NDArray[np.bool_]
    phrase_rows: Ints
    own_phrases: tuple[str, ...]
    segmentations: SegmentationColumn

    def rows_of(self, image_row: int) -> slice:
        """Return the rows of an image's annotations."""
        return slice(int(self.starts[image_row]), int(self.starts[image_row + 1]))

    def row_of_image(self, image_id: int) -> int:
        """Return the row of an image.

        Raises:
            KeyError: no image has this id.
        """
        row = int(np.searchsorted(self.image_ids, image_id))
        if row >= len(self.image_ids) or self.image_ids[row] != image_id:
            raise KeyError(image_id)
        return row

    @cached_property
    def image_rows(self) -> Ints:
        """Image row of every annotation, int64 [m]."""
        return np.repeat(np.arange(len(self.image_ids)), np.diff(self.starts))

    @cached_property
    def has_mask(self) -> npt.NDArray[np.bool_]:
        """Whether each annotation has a segmentation, bool [m]."""
        return self.segmentations.has_mask()

    def encoded_mask(self, row: int) -> dict[str, Any] | None:
        """Return an annotation's mask as pycocotools' RLE at the size of its image; None without one."""
        segmentation = self.segmentations.get(row)
        height, width = self.sizes_hw[self.image_rows[row]].tolist()
        return None if segmentation is None else segmentation.encoded(height, width)


def _offsets(lengths: list[int]) -> Ints:
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64)
