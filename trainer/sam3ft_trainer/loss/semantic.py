"""The union mask of a phrase: where in the image it is, whichever object it belongs to."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sam3ft_trainer.loss.levels import PackedTargets, working_precision
from sam3ft_trainer.loss.mask_terms import SEMANTIC_FOCAL_ALPHA, dice_losses, enlarge, focal_means


def semantic_sums(
    semantic_B1hw: Tensor, masks_NSS: Tensor, targets: PackedTargets, *, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return focal loss, dice loss and IoU of the union mask, summed over the pairs whose union is not empty.

    A pair that is not exhaustively annotated has no union mask: its background is unknown.

    Args:
        semantic_B1hw: union mask logits of any float dtype.
        masks_NSS: uint8 [N, S, S], 0 or 1.
        targets: ground truth.
        chunk: pairs scored together; bounds memory, not the result.

    Returns:
        Three scalars, not yet divided by the number of pairs; the IoU carries no gradient. Without such a pair all
        are 0, and the first two still depend on `semantic_B1hw`.
    """
    ends = torch.tensor(targets.num_boxes).cumsum(0).tolist()
    spans = [(end - count, end) for end, count in zip(ends, targets.num_boxes, strict=True)]
    usable = [pair for pair, count in enumerate(targets.num_boxes) if count and targets.exhaustive[pair]]
    sums_3 = semantic_B1hw[:0].sum().expand(3)
    logits_hw = semantic_B1hw[:, 0].unbind()  # views, so no index travels to the device; one backward joins them
    for first in range(0, len(usable), chunk):
        pairs = usable[first : first + chunk]
        sums_3 = sums_3 + checkpoint(
            _chunk_sums,
            working_precision(torch.stack([logits_hw[pair] for pair in pairs])),
            masks_NSS,
            [spans[pair] for pair in pairs],
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return sums_3[0], sums_3[1], sums_3[2].detach()


def _chunk_sums(logits_chw: Tensor, masks_NSS: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    union_cSS = torch.stack([masks_NSS[start:end].amax(0) for start, end in spans])
    logits_cp = enlarge(logits_chw, (masks_NSS.shape[1], masks_NSS.shape[2])).flatten(1)
    target_cp = union_cSS.flatten(1).to(logits_cp.dtype)
    filled_c = target_cp.amax(1)
    focal_c = focal_means(logits_cp, target_cp, SEMANTIC_FOCAL_ALPHA)
    dice_c = dice_losses(logits_cp, target_cp)
    with torch.no_grad():
        predicted_cp = (logits_cp.sigmoid() > 0.5).to(logits_cp.dtype)
        shared_c = (predicted_cp * target_cp).sum(1)
        iou_c = shared_c / (predicted_cp.sum(1) + target_cp.sum(1) - shared_c + 1e-8)
    return torch.stack([(values_c * filled_c).sum() for values_c in (focal_c, dice_c, iou_c)])
