"""Focal and dice loss of masks, for values that lie flat: pixels of whole masks, or sampled points.

Focal loss: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017 (arXiv 1708.02002). Dice: Milletari et al.,
"V-Net", 3DV 2016 (arXiv 1606.04797), with 1 added to numerator and denominator as DETR has it.
"""

from torch import Tensor
from torch.nn import functional as F

MASK_FOCAL_ALPHA = 0.25
"""Weight of foreground pixels in instance masks, upstream's."""
SEMANTIC_FOCAL_ALPHA = 0.6
"""Weight of foreground pixels in the union mask, upstream's."""


def enlarge(logits_xhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize mask logits [X, h, w] bilinearly to [X, *size] (align_corners false)."""
    return F.interpolate(logits_xhw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def focal_means(logits_xp: Tensor, target_xp: Tensor, alpha: float) -> Tensor:
    """Return the focal loss (gamma 2) of each row, averaged over its P values: [X].

    Args:
        logits_xp: float [X, P].
        target_xp: the same shape and dtype, 0..1.
        alpha: weight of foreground; background has 1 - alpha.
    """
    prob_xp = logits_xp.sigmoid()
    # 1 - p_t, the distance of the probability from a hard target.
    miss_xp = prob_xp + target_xp - 2 * prob_xp * target_xp
    balance_xp = alpha * target_xp + (1 - alpha) * (1 - target_xp)
    entropy_xp = F.binary_cross_entropy_with_logits(logits_xp, target_xp, reduction="none")
    return (balance_xp * entropy_xp * miss_xp.square()).mean(1)


def dice_losses(logits_xp: Tensor, target_xp: Tensor) -> Tensor:
    """Return 1 - (2 sum(pt) + 1) / (sum(p) + sum(t) + 1) of each row: [X]."""
    prob_xp = logits_xp.sigmoid()
    overlap_x = 2 * (prob_xp * target_xp).sum(1)
    return 1 - (overlap_x + 1) / (prob_xp.sum(1) + target_xp.sum(1) + 1)
