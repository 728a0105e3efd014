"""The geometry of one sample in numbers alone: what is drawn for an image, and where its boxes go.

At the default settings this is upstream's pipeline (facebookresearch/sam3, `sam3/train/transforms`): boxes clamped as
fractions, a square resize that ignores the aspect ratio, zero padding at a random place. Apart from the pixels, so that
a check of the data needs no torch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was drawn for one image; applying it is deterministic.

    Applied in the order of the fields.

    Attributes:
        size: S, side of the result in pixels.
        crop_xyxy: part of the original image that is used, whole pixels.
        side: s <= S, the crop is resized to s x s.
        quarter_turns: counter-clockwise, 0 to 3.
        flip_x: mirror left and right.
        flip_y: mirror top and bottom.
        color: factors of brightness, contrast and saturation; None leaves the pixels alone.
        left: zero padding left of the image in pixels.
        top: zero padding above it.
    """

    size: int
    crop_xyxy: tuple[int, int, int, int]
    side: int
    quarter_turns: int = 0
    flip_x: bool = False
    flip_y: bool = False
    color: tuple[float, float, float] | None = None
    left: int = 0
    top: int = 0

    def is_whole(self, *, height: int, width: int) -> bool:
        """Return whether nothing of an image of this size is cropped away."""
        return self.crop_xyxy == (0, 0, width, height)


def plain_plan(size: int, *, height: int, width: int) -> Plan:
    """Return the plan of evaluation: the whole image, resized to the full square."""
    return Plan(size=size, crop_xyxy=(0, 0, width, height), side=size)


def clamp_boxes(boxes_N4: npt.NDArray[np.float64], *, height: int, width: int) -> tuple[Floats, Floats]:
    """Return boxes as upstream reads them, and their areas.

    x, y, w and h are divided by the image size and clamped to 0..1 each, then the corners to the image. A box that
    begins left of or above the image therefore keeps its width and height, as in upstream.

    Args:
        boxes_N4: x, y, w, h in pixels.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        float32 [N, 4] x1, y1, x2, y2 in pixels, and float32 [N], w * h as a fraction before the corners are clamped.
    """
    scale = np.asarray([width, height, width, height], dtype=np.float32)
    fractions = np.clip(boxes_N4.astype(np.float32).reshape(-1, 4) / scale, 0, 1)
    corners = np.concatenate((fractions[:, :2], fractions[:, :2] + fractions[:, 2:]), axis=1)
    return np.clip(corners * scale, 0, scale), fractions[:, 2] * fractions[:, 3]


def scaled_areas(boxes_N4: Floats, areas_N: Floats, plan: Plan, *, height: int, width: int) -> Floats:
    """Return the areas that upstream's size filter compares: the fraction of the image times (s/W) * (s/H).

    Under a crop, the crop takes the place of the image and the visible part of the box that of the box.
    """
    x1, y1, x2, y2 = plan.crop_xyxy
    if not plan.is_whole(height=height, width=width):
        left, top, right, bottom = clip_to_crop(boxes_N4, plan).T
        areas_N = ((right - left) * (bottom - top) / ((x2 - x1) * (y2 - y1))).astype(np.float32)
    return (areas_N * np.float32(plan.side / (x2 - x1)) * np.float32(plan.side / (y2 - y1))).astype(np.float32)


def clip_to_crop(boxes_N4: Floats, plan: Plan) -> Floats:
    """Return x1, y1, x2, y2 in pixels of the crop, clipped to it; a box outside it has no width or no height."""
    x1, y1, x2, y2 = plan.crop_xyxy
    shifted = boxes_N4 - np.asarray([x1, y1, x1, y1], dtype=np.float32)
    return np.clip(shifted, 0, np.asarray([x2 - x1, y2 - y1, x2 - x1, y2 - y1], dtype=np.float32))


def place_boxes(boxes_N4: Floats, plan: Plan) -> Floats:
    """Return boxes of the result, float32 [N, 4] cx, cy, w, h as fractions of the padded square.

    Args:
        boxes_N4: x1, y1, x2, y2 in pixels of the original image.
        plan: what to do.
    """
    x1, y1, x2, y2 = plan.crop_xyxy
    ratio = np.asarray([plan.side / (x2 - x1), plan.side / (y2 - y1)] * 2, dtype=np.float32)
    left, top, right, bottom = (clip_to_crop(boxes_N4, plan) * ratio).T
    side = np.float32(plan.side)
    for _ in range(plan.quarter_turns % 4):
        left, top, right, bottom = top, side - right, bottom, side - left
    if plan.flip_x:
        left, right = side - right, side - left
    if plan.flip_y:
        top, bottom = side - bottom, side - top
    left, right, top, bottom = left + plan.left, right + plan.left, top + plan.top, bottom + plan.top
    placed = np.stack(((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), axis=1)
    return (placed / np.float32(plan.size)).astype(np.float32)


def box_mask(box_xyxy: Floats, *, height: int, width: int) -> Bytes:
    """Return upstream's stand-in for an all-zero mask: its box with whole-pixel corners, at least one pixel."""
    x1, y1, x2, y2 = (int(value) for value in box_xyxy)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 1
    return mask
