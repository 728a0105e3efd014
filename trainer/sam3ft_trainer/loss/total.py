"""The loss of a micro-batch as its share of the step's loss.

With N = max(1, objects), P = pairs and P+ = pairs whose union mask is not empty, all counted over the global batch,
the loss of a step is

    sqrt(P) * [ sum(box, mask terms) / N + sum(ce) / (P max(Q, 200)) + sum(presence) / P + sum(semantic) / max(1, P+) ]

where every sum runs over the global batch. Each micro-batch computes its part of the sums; totals and gradients of all
micro-batches and ranks are added. How the batch is split therefore does not change the step. For one process without
accumulation this is the loss of facebookresearch/sam3; docs/numerics.md relates the two for more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss.boxes import box_losses
from sam3ft_trainer.loss.classification import PADDED_QUERIES, classification_sums, presence_sums
from sam3ft_trainer.loss.levels import (
    LevelGroup,
    PackedTargets,
    hungarian_levels,
    o2m_level,
    pack_targets,
    working_precision,
)
from sam3ft_trainer.loss.masks import mask_sums
from sam3ft_trainer.loss.matching import GroupMatches, start_matching
from sam3ft_trainer.loss.points import UniformDraw, uniform_draw
from sam3ft_trainer.loss.semantic import semantic_sums
from sam3ft_trainer.tensors import GlobalCounts, Predictions, Targets


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A micro-batch's share of the step's loss.

    Attributes:
        total: scalar with gradient; the step's loss is the sum of all shares.
        terms: scalars on the device, without gradient and without weights, under upstream's names: `loss_bbox`,
            `loss_bbox_aux_0`, `loss_bbox_o2m`, `loss_bbox_aux_0_o2m`, ...; terms of the one-to-many branch hold its
            factor (2). These are shares as well: the sum over micro-batches is the step's term. The diagnostics
            `ce_f1*`, `presence_dec_acc*` and `miou_semantic_seg` are averages over pairs.
    """

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(slots=True)
class _Ledger:
    """Collects terms under their names and adds up the weighted ones."""

    weights: dict[str, float]
    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, values_G: Tensor, suffixes: Sequence[str] = ("",)) -> None:
        """Enter one term of G levels; a name without a weight is a diagnostic."""
        if name in self.weights:
            self.total = self.total + self.weights[name] * values_G.sum()
        self.terms.update(zip((name + suffix for suffix in suffixes), values_G.detach().unbind(), strict=True))


@dataclass(frozen=True, slots=True)
class _Divisors:
    """What the sums of a step are divided by; all are positive."""

    boxes: float
    pairs: float
    mask_pairs: float

    @classmethod
    def of(cls, counts: GlobalCounts) -> "_Divisors":
        return cls(max(1.0, counts.num_boxes), max(1.0, counts.num_pairs), max(1.0, counts.num_mask_pairs))


def compute_loss(
    predictions: Predictions,
    targets: Targets,
    counts: GlobalCounts,
    config: LossConfig,
    *,
    generator: torch.Generator | None = None,
    draw: dict[str, UniformDraw] | None = None,
) -> LossOutput:
    """Return the micro-batch's share of the step's loss.

    Losses are computed in float32 (float64 predictions stay) with autocast off, whatever precision the model ran in.
    The host waits for the device once, for the matching. Without a pair or without ground truth the terms are zero as
    far as the formula says so, and every prediction tensor still gets a gradient.

    Args:
        predictions: the model's output for B pairs; masks and semantic logits are scored when they are there.
        targets: ground truth of the same pairs, on the same device (`num_boxes_B` and `exhaustive_B` on the CPU).
        counts: sums of `local_counts` over the global batch.
        config: weights and settings of losses and matchers.
        generator: randomness of `mask_points`; unused without it.
        draw: overrides that randomness with given numbers, by branch ("final", "final.o2m").

    Returns:
        Total with gradient, and all terms.

    Raises:
        ValueError: the predictions hold masks and the targets do not, or they do not have the same number of pairs.
    """
    _check(predictions, targets)
    device = predictions.logits_LBQ.device
    draws = draw or dict.fromkeys(("final", "final.o2m"), uniform_draw(device, generator))
    with torch.autocast(device.type, enabled=False):
        return _compute(predictions, targets, counts, config, draws)


def local_counts(targets: Targets, *, segmentation: bool) -> GlobalCounts:
    """Count what this micro-batch adds to the counts of the global batch.

    Reads the pixels of the masks, so `targets` should be on the CPU, before the step.

    Args:
        targets: ground truth of B pairs.
        segmentation: count the pairs with a non-empty union mask; else that count is 0.

    Returns:
        Counts to be summed over micro-batches and ranks.
    """
    pairs = len(targets.num_boxes_B)
    num_mask_pairs = 0
    if segmentation and targets.masks_NSS is not None:
        usable_B = torch.ones(pairs, dtype=torch.bool) if targets.exhaustive_B is None else targets.exhaustive_B
        masks_per_pair = torch.split(targets.masks_NSS, targets.num_boxes_B.tolist())
        num_mask_pairs = sum(
            usable and any(bool(mask_SS.any()) for mask_SS in masks_nSS)
            for usable, masks_nSS in zip(usable_B.tolist(), masks_per_pair, strict=True)
        )
    return GlobalCounts(float(len(targets.boxes_N4)), float(pairs), float(num_mask_pairs))


def sum_counts(counts: Iterable[GlobalCounts]) -> GlobalCounts:
    """Add up counts, as over the micro-batches of a step."""
    parts = list(counts)
    return GlobalCounts(
        sum(part.num_boxes for part in parts),
        sum(part.num_pairs for part in parts),
        sum(part.num_mask_pairs for part in parts),
    )


def _check(predictions: Predictions, targets: Targets) -> None:
    pairs, annotated = predictions.logits_LBQ.shape[1], len(targets.num_boxes_B)
    if pairs != annotated:
        raise ValueError(f"predictions of {pairs} pairs cannot be scored against targets of {annotated} pairs")
    if predictions.masks_BQhw is not None and (targets.masks_NSS is None or targets.mask_valid_N is None):
        raise ValueError("the predictions hold masks, the targets hold none: load the data with masks for segmentation")


def _compute(
    predictions: Predictions,
    targets: Targets,
    counts: GlobalCounts,
    config: LossConfig,
    draws: dict[str, UniformDraw],
) -> LossOutput:
    hungarian = hungarian_levels(predictions, config.o2m_weight)
    o2m = o2m_level(predictions, config.o2m_weight)
    packed = pack_targets(targets, hungarian.logits_GBQ)
    divisors = _Divisors.of(counts)
    ledger = _Ledger(config.weights.model_dump(), hungarian.logits_GBQ.new_zeros(()))

    mask_valid_N = None if predictions.masks_BQhw is None else targets.mask_valid_N
    finish_matching = start_matching(hungarian, o2m, packed, config, mask_valid_N=mask_valid_N)
    # These need no matches: the device works on them while the host solves the assignments.
    _add_presence(ledger, predictions.presence_LB, packed, divisors)
    _add_semantic(ledger, predictions, targets, packed, counts, config)
    matches = finish_matching()

    _add_group(ledger, hungarian, matches.hungarian, packed, divisors, config)
    if o2m is not None and matches.o2m is not None:
        _add_group(ledger, o2m, matches.o2m, packed, divisors, config)
    for name, masks_BQhw, group in (
        ("final", predictions.masks_BQhw, matches.hungarian),
        ("final.o2m", predictions.masks_o2m_BQhw, matches.o2m),
    ):
        if masks_BQhw is not None and group is not None and group.masks is not None and targets.masks_NSS is not None:
            suffix, factor = ("_o2m", config.o2m_weight) if name == "final.o2m" else ("", 1.0)
            focal, dice = mask_sums(masks_BQhw, group.masks, targets.masks_NSS, config, draw=draws[name])
            ledger.add("loss_mask", factor * focal[None] / divisors.boxes, (suffix,))
            ledger.add("loss_dice", factor * dice[None] / divisors.boxes, (suffix,))
    return LossOutput(ledger.total * divisors.pairs**0.5, ledger.terms)


def _add_group(
    ledger: _Ledger,
    levels: LevelGroup,
    matches: GroupMatches,
    targets: PackedTargets,
    divisors: _Divisors,
    config: LossConfig,
) -> None:
    factors_G = levels.factors()
    predicted_GM4 = levels.gather(levels.boxes_GBQ4, matches.every.slots)
    distance_G, giou_G = box_losses(predicted_GM4, targets.boxes_N4[matches.every.targets])
    ledger.add("loss_bbox", factors_G * distance_G / divisors.boxes, levels.suffixes)
    ledger.add("loss_giou", factors_G * giou_G / divisors.boxes, levels.suffixes)

    pairs, queries = levels.logits_GBQ.shape[1:]
    ce_G, f1_G = classification_sums(levels, matches.scored, targets, pos_weight=config.pos_weight)
    ledger.add("loss_ce", factors_G * ce_G / (divisors.pairs * max(queries, PADDED_QUERIES)), levels.suffixes)
    ledger.add("ce_f1", factors_G * f1_G * (pairs / divisors.pairs), levels.suffixes)


def _add_presence(ledger: _Ledger, presence_LB: Tensor, targets: PackedTargets, divisors: _Divisors) -> None:
    loss_L, right_L = presence_sums(working_precision(presence_LB), targets)
    suffixes = [*(f"_aux_{i}" for i in range(len(loss_L) - 1)), ""]
    ledger.add("presence_loss", loss_L / divisors.pairs, suffixes)
    ledger.add("presence_dec_acc", right_L / divisors.pairs, suffixes)


def _add_semantic(
    ledger: _Ledger,
    predictions: Predictions,
    targets: Targets,
    packed: PackedTargets,
    counts: GlobalCounts,
    config: LossConfig,
) -> None:
    if predictions.semantic_B1hw is None or targets.masks_NSS is None:
        return
    focal, dice, iou = semantic_sums(predictions.semantic_B1hw, targets.masks_NSS, packed, chunk=config.mask_chunk)
    divisors = _Divisors.of(counts)
    ledger.add("loss_semantic_seg", focal[None] / divisors.mask_pairs)
    ledger.add("loss_semantic_dice", dice[None] / divisors.mask_pairs)
    # Without any union mask in the global batch upstream reports 1.
    share = len(packed.num_boxes) / divisors.pairs if counts.num_mask_pairs == 0 else 0.0
    ledger.add("miou_semantic_seg", iou[None] / divisors.mask_pairs + share)
