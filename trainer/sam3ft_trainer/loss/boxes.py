"""Overlap of boxes, and the two box losses.

Generalised IoU: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019 (arXiv 1902.09630).
"""

import torch
from torch import Tensor


def iou_and_giou(left_x4: Tensor, right_x4: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU of boxes, elementwise with broadcasting over the leading dimensions.

    Two boxes that both have no area give 0 for the IoU instead of 0/0.

    Args:
        left_x4: float [..., 4], cx cy w h.
        right_x4: float [..., 4], cx cy w h, broadcastable with `left_x4`.

    Returns:
        IoU in 0..1 and generalised IoU in -1..1, of the broadcast leading shape.
    """
    tiny = torch.finfo(left_x4.dtype).tiny
    left0_x, left0_y, left1_x, left1_y = _corners(left_x4)
    right0_x, right0_y, right1_x, right1_y = _corners(right_x4)

    inner_w = (torch.minimum(left1_x, right1_x) - torch.maximum(left0_x, right0_x)).clamp(min=0)
    inner_h = (torch.minimum(left1_y, right1_y) - torch.maximum(left0_y, right0_y)).clamp(min=0)
    outer_w = torch.maximum(left1_x, right1_x) - torch.minimum(left0_x, right0_x)
    outer_h = torch.maximum(left1_y, right1_y) - torch.minimum(left0_y, right0_y)

    left_area = (left1_x - left0_x) * (left1_y - left0_y)
    right_area = (right1_x - right0_x) * (right1_y - right0_y)
    shared = inner_w * inner_h
    union = left_area + right_area - shared
    hull = (outer_w.clamp(min=0) * outer_h.clamp(min=0)).clamp(min=tiny)
    iou = shared / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull


def box_losses(predicted_GM4: Tensor, target_GM4: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed L1 distance and the summed 1 - GIoU of M matched boxes, for each of G levels.

    Args:
        predicted_GM4: float [G, M, 4], cx cy w h.
        target_GM4: the same for the targets they are matched with.

    Returns:
        Two float [G], not yet divided by the number of boxes.
    """
    _, giou_GM = iou_and_giou(predicted_GM4, target_GM4)
    return (predicted_GM4 - target_GM4).abs().sum((1, 2)), (1 - giou_GM).sum(1)


def _corners(boxes_x4: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    center_x, center_y, width, height = boxes_x4.unbind(-1)
    half_w, half_h = 0.5 * width, 0.5 * height
    return center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h
