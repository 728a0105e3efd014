"""Whether a query is an object, and whether a phrase is in the image at all.

The IoU-aware classification loss is upstream's (facebookresearch/sam3 `train/loss/loss_fns.py`, IABCEMdetr): a matched
query is drawn towards t = p^0.25 IoU^0.75, every other one towards 0 with weight p^2. Queries of a pair without any
visible object are left to the presence logit.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sam3ft_trainer.loss.boxes import iou_and_giou
from sam3ft_trainer.loss.levels import LevelGroup, PackedTargets
from sam3ft_trainer.loss.matching import MatchIndex

SCORE_EXPONENT = 0.25
"""Share of the probability in the target t; the rest goes to the IoU."""
SMALLEST_TARGET = 0.01
"""Lower bound of t."""
NEGATIVE_EXPONENT = 2
"""Exponent of the probability in the weight of unmatched queries."""
PADDED_QUERIES = 200
"""Below this number of queries the divisor stays that of 200, so that small models keep the loss scale."""
PRESENCE_BALANCE = 0.5
"""The focal alpha of the presence loss at gamma 0: it halves both classes."""


def classification_sums(
    levels: LevelGroup, scored: MatchIndex, targets: PackedTargets, *, pos_weight: float
) -> tuple[Tensor, Tensor]:
    """Return the summed classification loss and the F1 of "matched" at p > 0.5, for each of G levels.

    In a pair that is not exhaustively annotated the unmatched queries carry no loss: what they found may be an object
    that nobody boxed.

    Args:
        levels: G levels; the gradient flows to the logits alone.
        scored: matches, at most one per query.
        targets: ground truth.
        pos_weight: weight of matched queries.

    Returns:
        Loss [G], summed over pairs and queries; F1 [G] without gradient, 0 where nothing is matched or predicted.
    """
    logits_GBQ = levels.logits_GBQ
    matched_logits_GM = levels.gather(logits_GBQ, scored.slots)
    with torch.no_grad():
        matched_GBQ = torch.zeros_like(logits_GBQ).flatten(1).scatter_(1, scored.slots, 1.0).reshape(logits_GBQ.shape)
        boxes_GM4 = levels.gather(levels.boxes_GBQ4, scored.slots)
        iou_GM, _ = iou_and_giou(boxes_GM4, targets.boxes_N4[scored.targets])
        score_GM = matched_logits_GM.sigmoid() ** SCORE_EXPONENT * iou_GM ** (1 - SCORE_EXPONENT)
        aim_GM = score_GM.clamp(min=SMALLEST_TARGET)
        present_GM = targets.present_B[targets.pair_N[scored.targets]]
        weight_GBQ = (1 - matched_GBQ) * (targets.present_B * targets.exhaustive_B)[:, None]

    positive_GM = F.binary_cross_entropy_with_logits(matched_logits_GM, aim_GM, reduction="none") * present_GM
    prob_GBQ = logits_GBQ.sigmoid()
    unmatched_GBQ = F.binary_cross_entropy_with_logits(logits_GBQ, torch.zeros_like(logits_GBQ), reduction="none")
    negative_GBQ = unmatched_GBQ * prob_GBQ**NEGATIVE_EXPONENT * weight_GBQ
    return pos_weight * positive_GM.sum(1) + negative_GBQ.sum((1, 2)), _f1(prob_GBQ, matched_GBQ)


def presence_sums(presence_LB: Tensor, targets: PackedTargets) -> tuple[Tensor, Tensor]:
    """Return the summed presence loss and the number of pairs judged rightly at 0.5, for each of L layers.

    A pair without a visible object whose category is not exhaustively annotated counts in neither: the object may
    be there.

    Args:
        presence_LB: presence logits.
        targets: ground truth.

    Returns:
        Two [L]; the second without gradient.
    """
    target_LB = targets.present_B.expand_as(presence_LB)
    known_B = torch.maximum(targets.present_B, targets.exhaustive_B)
    loss_LB = F.binary_cross_entropy_with_logits(presence_LB, target_LB, reduction="none")
    right_LB = (presence_LB.detach().sigmoid() > 0.5).to(presence_LB.dtype) == target_LB
    return PRESENCE_BALANCE * (loss_LB * known_B).sum(1), (right_LB * known_B).sum(1)


@torch.no_grad()
def _f1(prob_GBQ: Tensor, matched_GBQ: Tensor) -> Tensor:
    predicted_GBQ = (prob_GBQ > 0.5).to(prob_GBQ.dtype)
    both_G = (predicted_GBQ * matched_GBQ).sum((1, 2))
    either_G = predicted_GBQ.sum((1, 2)) + matched_GBQ.sum((1, 2))
    return 2 * both_G / either_G.clamp(min=1)
