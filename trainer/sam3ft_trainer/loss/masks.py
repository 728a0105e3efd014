"""Instance mask losses: exact at full resolution in bounded memory, or on sampled points.

A matched mask at 1008 px costs some 40 MB in the backward pass when it is written down naively, and a crowded image
has hundreds. Here masks are enlarged and scored in chunks whose activations are thrown away and recomputed, so that
the peak is that of one chunk whatever the number of masks. The result does not depend on the chunk's size but for the
order in which the per-mask losses are added.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss.levels import working_precision
from sam3ft_trainer.loss.mask_terms import MASK_FOCAL_ALPHA, dice_losses, enlarge, focal_means
from sam3ft_trainer.loss.matching import MatchIndex
from sam3ft_trainer.loss.points import UniformDraw, sample, sample_targets, uncertain_points


def mask_sums(
    masks_BQhw: Tensor, matches: MatchIndex, masks_NSS: Tensor, config: LossConfig, *, draw: UniformDraw
) -> tuple[Tensor, Tensor]:
    """Return the focal loss (mean over pixels or points) and the dice loss, both summed over the K matched masks.

    Without any match both are 0 and still depend on `masks_BQhw`.

    Args:
        masks_BQhw: mask logits of any float dtype; only the matched ones are read.
        matches: the matches whose object has a mask, [K].
        masks_NSS: uint8 [N, S, S], 0 or 1.
        config: `mask_points` (None: every pixel of S x S), sampling ratios, `mask_chunk`.
        draw: source of uniform random numbers for the points.

    Returns:
        Two scalars, not yet divided by the number of boxes.
    """
    picked_Khw = working_precision(masks_BQhw.flatten(0, 1).index_select(0, matches.slots))
    if config.mask_points is None:
        sums_2 = _full_resolution(picked_Khw, matches.targets, masks_NSS, config.mask_chunk)
    else:
        points_KP2 = uncertain_points(picked_Khw.detach(), config.mask_points, config, draw=draw)
        target_KP = sample_targets(masks_NSS, matches.targets, points_KP2, chunk=config.mask_chunk)
        logits_KP = sample(picked_Khw, points_KP2)
        sums_2 = torch.stack([focal_means(logits_KP, target_KP, MASK_FOCAL_ALPHA), dice_losses(logits_KP, target_KP)])
        sums_2 = sums_2.sum(1)
    return sums_2[0], sums_2[1]


def _full_resolution(picked_Khw: Tensor, targets_K: Tensor, masks_NSS: Tensor, chunk: int) -> Tensor:
    sums_2 = picked_Khw[:0].sum().expand(2)  # zero, and keeps the graph when nothing is matched
    # `split` and not slices: the backward of one split joins the chunks' gradients, that of a slice fills K masks.
    for logits_chw, targets_c in zip(torch.split(picked_Khw, chunk), torch.split(targets_K, chunk), strict=True):
        if len(logits_chw):
            sums_2 = sums_2 + checkpoint(
                _chunk_sums, logits_chw, targets_c, masks_NSS, use_reentrant=False, preserve_rng_state=False
            )
    return sums_2


def _chunk_sums(logits_chw: Tensor, targets_c: Tensor, masks_NSS: Tensor) -> Tensor:
    logits_cp = enlarge(logits_chw, (masks_NSS.shape[1], masks_NSS.shape[2])).flatten(1)
    target_cp = masks_NSS.index_select(0, targets_c).flatten(1).to(logits_cp.dtype)
    return torch.stack(
        [focal_means(logits_cp, target_cp, MASK_FOCAL_ALPHA).sum(), dice_losses(logits_cp, target_cp).sum()]
    )
