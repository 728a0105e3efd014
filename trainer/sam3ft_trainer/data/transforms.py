"""The geometry of one sample: crop, square resize, turns, flips and padding, for pixels, boxes and masks alike.

At the default settings this is upstream's pipeline (facebookresearch/sam3, `sam3/train/transforms`): boxes clamped as
fractions, a square resize that ignores the aspect ratio, zero padding at a random place. Images are resized as uint8
with antialias, which equals Pillow's bilinear filter within one grey level; masks are resized in float32 and rounded,
as torchvision does for tensors.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

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


def place_image(rgb_HW3: Bytes, plan: Plan, *, out_3SS: Tensor | None = None) -> Tensor:
    """Return the pixels of the result, uint8 [3, S, S], zero in the padding, packed: the channels of a pixel together.

    Args:
        rgb_HW3: the original image.
        plan: what to do.
        out_3SS: packed memory to write to, all of it; allocated when None.
    """
    x1, y1, x2, y2 = plan.crop_xyxy
    # Batch axis first, then permute: only so torch sees packed RGB, and its kernel for that takes half the time.
    packed = torch.from_numpy(np.ascontiguousarray(rgb_HW3[y1:y2, x1:x2]))[None].permute(0, 3, 1, 2)
    if _is_resize_alone(plan):
        # Written where it belongs, without an image in between, which is a seventh of the time.
        result = packed_image(plan.size) if out_3SS is None else out_3SS
        resize_into = torch.ops.aten._upsample_bilinear2d_aa.out  # noqa: SLF001 - what interpolate calls, which has no out
        resize_into(packed, (plan.size, plan.size), False, None, None, out=result[None])
        return result
    if packed.shape[2:] != (plan.side, plan.side):
        packed = F.interpolate(packed, size=(plan.side, plan.side), mode="bilinear", antialias=True)
    pixels = _turn(packed[0], plan)
    if plan.color is not None:
        pixels = adjust_color(pixels, *plan.color)
    result = packed_image(plan.size) if out_3SS is None else out_3SS
    if plan.side < plan.size:
        result.zero_()
    result[:, plan.top : plan.top + plan.side, plan.left : plan.left + plan.side] = pixels
    return result


def _is_resize_alone(plan: Plan) -> bool:
    return plan.side == plan.size and plan.color is None and not (plan.quarter_turns % 4 or plan.flip_x or plan.flip_y)


def packed_image(size: int) -> Tensor:
    """Return a black image, uint8 [3, S, S], as [S, S, 3] in memory."""
    return torch.zeros(size, size, 3, dtype=torch.uint8).permute(2, 0, 1)


def place_mask(mask_HW: Bytes, plan: Plan) -> Tensor:
    """Return a mask of the result, uint8 [S, S] of 0 and 1, zero in the padding."""
    x1, y1, x2, y2 = plan.crop_xyxy
    resized = resize_mask(mask_HW[y1:y2, x1:x2], plan.side)
    result = torch.zeros(plan.size, plan.size, dtype=torch.uint8)
    result[plan.top : plan.top + plan.side, plan.left : plan.left + plan.side] = _turn(resized[None], plan)[0]
    return result


def box_mask(box_xyxy: Floats, *, height: int, width: int) -> Bytes:
    """Return upstream's stand-in for an all-zero mask: its box with whole-pixel corners, at least one pixel."""
    x1, y1, x2, y2 = (int(value) for value in box_xyxy)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 1
    return mask


def resize_mask(mask_HW: Bytes, side: int) -> Tensor:
    """Return the mask at `side` x `side`, uint8: bilinear with antialias in float32, rounded half to even.

    Only rows and columns that the mask touches are computed, one axis after the other; the bits are those of resizing
    the whole mask, because the filter is separable and zeros add nothing. An object of 40 px in an image of 600 px
    takes a twentieth of the time.
    """
    height = len(mask_HW)
    result = torch.zeros(side, side, dtype=torch.uint8)
    rows = np.flatnonzero(mask_HW.any(axis=1))
    if not len(rows):
        return result
    first, last = int(rows[0]), int(rows[-1]) + 1
    strip = torch.from_numpy(np.ascontiguousarray(mask_HW[first:last])).float()
    strip = F.interpolate(strip[None, None], size=(last - first, side), mode="bilinear", antialias=True)[0, 0]
    columns = torch.nonzero(strip.any(dim=0))[:, 0]
    left, right = int(columns[0]), int(columns[-1]) + 1
    column_block = torch.zeros(height, right - left)
    column_block[first:last] = strip[:, left:right]
    block = F.interpolate(column_block[None, None], size=(side, right - left), mode="bilinear", antialias=True)[0, 0]
    result[:, left:right] = block.round_().to(torch.uint8)
    return result


def adjust_color(pixels_3HW: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Return uint8 pixels with brightness, then contrast, then saturation scaled.

    A factor of 1 changes nothing; contrast blends with the mean grey, saturation with each pixel's grey (ITU-R 601
    weights, as Pillow's ImageEnhance).
    """
    values = (pixels_3HW.float() * brightness).clamp_(0, 255)
    values = (values * contrast + _grey(values).mean() * (1 - contrast)).clamp_(0, 255)
    values = (values * saturation + _grey(values) * (1 - saturation)).clamp_(0, 255)
    return values.round_().to(torch.uint8)


def _grey(values_3HW: Tensor) -> Tensor:
    return (values_3HW * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0, keepdim=True)


def _turn(pixels_CHW: Tensor, plan: Plan) -> Tensor:
    if plan.quarter_turns % 4:
        pixels_CHW = torch.rot90(pixels_CHW, plan.quarter_turns, dims=(1, 2))
    axes = [axis for axis, flip in ((2, plan.flip_x), (1, plan.flip_y)) if flip]
    return torch.flip(pixels_CHW, axes) if axes else pixels_CHW
