"""Test images with truth and detections, small enough to stand in the report itself."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.decode import BadImage, decode_image
from sam3ft_trainer.evaluate.report.document import Pictures, ReportPicture, Shape
from sam3ft_trainer.evaluate.scores import KeptDetection, SplitScores
from sam3ft_trainer.evaluate.truth import Rle, Truth, TruthObject

LONGEST_SIDE = 640
"""Pixels; larger images are shrunk to it."""
_QUALITY = 80
_MIN_POINTS = 3


def make_pictures(dataset: CocoDataset, truth: Truth, scores: SplitScores, *, threshold: float) -> Pictures:
    """Return the pictures whose detections `scores` has kept; images that cannot be read are left out.

    Detections from `threshold` on are drawn. When no picture has one, as with a model that has just begun to learn, as
    many of the best are drawn as objects are annotated.
    """
    order = {category_id: place for place, category_id in enumerate(truth.categories)}
    any_above = any(item.score >= threshold for picture in scores.pictures for item in picture.detections)
    objects: dict[int, list[TruthObject]] = {}
    for item in truth.objects:
        objects.setdefault(item.image_id, []).append(item)
    made = []
    for picture in scores.pictures:
        mine = objects.get(picture.image_id, [])
        shown = [item for item in picture.detections if item.score >= threshold]
        if not any_above:
            shown = list(picture.detections[: max(1, sum(not item.is_crowd for item in mine))])
        drawn = _draw(dataset, picture.image_id, mine, shown, order)
        if drawn is not None:
            made.append(drawn)
    return Pictures(
        categories=tuple(truth.categories.values()), threshold=threshold if any_above else None, pictures=tuple(made)
    )


def _draw(
    dataset: CocoDataset,
    image_id: int,
    objects: Iterable[TruthObject],
    found: Iterable[KeptDetection],
    order: Mapping[int, int],
) -> ReportPicture | None:
    size_hw = dataset.size_hw(image_id)
    try:
        pixels = decode_image(dataset.read_image(image_id), size_hw=size_hw).rgb_HW3
    except BadImage:
        return None
    scale = min(1.0, LONGEST_SIDE / max(size_hw))
    width, height = max(1, round(size_hw[1] * scale)), max(1, round(size_hw[0] * scale))
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return ReportPicture(
        image_id=image_id,
        name=dataset.index.file_names[dataset.index.row_of_image(image_id)],
        width=width,
        height=height,
        jpeg_base64=base64.b64encode(buffer.getvalue()).decode("ascii"),
        truth=tuple(
            Shape(
                category=order[item.category_id],
                box_xywh=_scaled(item.box_xywh, scale),
                path=outline(item.rle, (height, width)),
                is_crowd=item.is_crowd,
            )
            for item in objects
        ),
        found=tuple(
            Shape(
                category=order[item.category_id],
                box_xywh=_scaled(item.box_xywh, scale),
                path=outline(item.rle, (height, width)),
                score=item.score,
            )
            for item in found
        ),
    )


def _scaled(box_xywh: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    left, top, width, height = (round(value * scale, 1) for value in box_xywh)
    return left, top, width, height


def outline(rle: Rle | None, size_hw: tuple[int, int]) -> str:
    """Return the outline of a mask as an SVG path in a picture of `size_hw`; empty without a mask."""
    if rle is None or not coco_mask.area(dict(rle)):
        return ""
    x, y, w, h = (int(value) for value in coco_mask.toBbox(dict(rle)))
    crop = Image.fromarray(np.asarray(coco_mask.decode(dict(rle)), dtype=np.uint8)[y : y + h, x : x + w] * 255)
    scale = np.array([size_hw[1] / rle["size"][1], size_hw[0] / rle["size"][0]])
    side = np.maximum(1, np.round(scale * [w, h])).astype(int)
    small = np.asarray(crop.resize((int(side[0]), int(side[1])), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    framed = np.pad(small, 1)  # so that every line closes
    lines: list[NDArray[np.float64]] = contour_generator(z=framed).lines(0.5)  # type: ignore[assignment]
    # Sample k of the framed crop is the centre of its pixel k - 1.
    stretch = scale * [w, h] / side
    return "".join(_path((line - 0.5) * stretch + scale * [x, y]) for line in lines if len(line) > _MIN_POINTS)


def _path(points_K2: NDArray[np.float64]) -> str:
    """One closed line; every second point of a long one is enough at this size."""
    step = 2 if len(points_K2) > 40 else 1
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points_K2[:-1:step]) + "Z"
