"""What evaluation compares with: objects, detections and image sizes in pixels of the original images.

Nothing here knows how a data set is read or how a model is called, so every metric can be tested on a handful of
numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import TypedDict  # pydantic cannot read typing's own before Python 3.12


class Rle(TypedDict):
    """A mask as COCO's compressed run-length encoding, column by column.

    `size` is height and width in pixels, `counts` the ASCII string of the COCO tools.
    """

    size: list[int]
    counts: str


class Detection(NamedTuple):
    """One scored object as a model reports it.

    Attributes:
        image_id: COCO id of the image.
        category_id: COCO id of the category whose phrase was asked.
        score: 0..1, rounded to five digits.
        box_xywh: left, top, width, height in pixels of the original image, rounded to five digits, not clipped.
        rle: mask of the original size; None in detection.
        for_ap: among the best of its image over all categories. Others are kept only because they pass the score
            threshold, and count for cgF1 alone.
    """

    image_id: int
    category_id: int
    score: float
    box_xywh: tuple[float, float, float, float]
    rle: Rle | None = None
    for_ap: bool = True


class TruthObject(NamedTuple):
    """One annotated object.

    Attributes:
        image_id: COCO id of the image.
        category_id: COCO id of the category.
        box_xywh: left, top, width, height in pixels of the original image.
        rle: mask of the original size; None when the object has no mask.
        area: pixels, for the small, medium and large ranges.
        is_crowd: a region of many objects; detections inside it are neither right nor wrong.
    """

    image_id: int
    category_id: int
    box_xywh: tuple[float, float, float, float]
    rle: Rle | None
    area: float
    is_crowd: bool


@dataclass(frozen=True, slots=True)
class Truth:
    """The annotated images of one split.

    Attributes:
        sizes_hw: height and width of every image that is scored, by image id.
        categories: name of every category that is scored, by category id.
        objects: every annotated object of those images and categories.
        exhaustive: ids of the categories whose objects are annotated completely. In the others an unmatched
            detection is neither right nor wrong, and absence proves nothing.
    """

    sizes_hw: Mapping[int, tuple[int, int]]
    categories: Mapping[int, str]
    objects: Sequence[TruthObject]
    exhaustive: frozenset[int]

    def only(self, image_ids: frozenset[int]) -> "Truth":
        """Return the part of the truth about `image_ids`, for instance without quarantined images."""
        return Truth(
            sizes_hw={key: value for key, value in self.sizes_hw.items() if key in image_ids},
            categories=self.categories,
            objects=[item for item in self.objects if item.image_id in image_ids],
            exhaustive=self.exhaustive,
        )

    @property
    def has_masks(self) -> bool:
        """Whether at least one object that is no crowd region has a mask."""
        return any(item.rle is not None and not item.is_crowd for item in self.objects)
