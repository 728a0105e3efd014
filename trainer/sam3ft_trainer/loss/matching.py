"""Which query answers for which object, for all levels of a step at once.

Two matchers, as upstream (facebookresearch/sam3 `train/matcher.py`) uses them:

- Hungarian, one query per object: the assignment of least total cost within each pair, where the cost of (query,
  object) is `cost_bbox * L1(cx cy w h) + cost_class * C - cost_giou * GIoU` and, with p the query's probability,
  `C = -0.25 (1-p)^2 log p + 0.75 p^2 log(1-p)`.
- one-to-many, for the last layer's o2m branch: with s = alpha p + (1 - alpha) IoU, a query is accepted for an object
  where s is above the threshold and strictly above the (1 - topk/Q) quantile over that object's queries.

Costs and acceptance are computed on the device, brought down in a single copy, solved on the host with SciPy, and
sent up in a single copy. Equal costs are resolved by the order of queries and objects, the same way every time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss.boxes import iou_and_giou
from sam3ft_trainer.loss.levels import LevelGroup, PackedTargets
from sam3ft_trainer.loss.transfer import Download, Indices, upload

FOCAL_ALPHA = 0.25
"""Balance of the classification cost, upstream's."""
COST_OF_NAN = 1e6
"""Stands in for a cost that is not a number: the assignment goes on, the step is found non-finite and skipped."""
COSTS_AT_ONCE = 4_000_000
"""Entries of the cost tensor computed together; bounds the temporaries to some 16 MB each, not the result."""


@dataclass(frozen=True, slots=True)
class MatchIndex:
    """Matched queries and objects, on the device; sorted by pair, then query, then object.

    Attributes:
        slots: int64 [G, M], pair * Q + query ([K] when it belongs to a single level).
        targets: int64 of the same shape, packed object index.
    """

    slots: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class GroupMatches:
    """Matches of one group of levels.

    Attributes:
        every: all matches; the box and mask terms sum over them.
        scored: at most one per query; where the one-to-many matcher gave a query several objects, the last one.
        masks: of the group's first level, the matches whose object has a mask; None in detection.
    """

    every: MatchIndex
    scored: MatchIndex
    masks: MatchIndex | None


@dataclass(frozen=True, slots=True)
class Matches:
    """Matches of all levels; `o2m` is None where the model ran without the one-to-many branch."""

    hungarian: GroupMatches
    o2m: GroupMatches | None


@torch.no_grad()
def start_matching(
    hungarian: LevelGroup,
    o2m: LevelGroup | None,
    targets: PackedTargets,
    config: LossConfig,
    *,
    mask_valid_N: Tensor | None,
) -> Callable[[], Matches]:
    """Queue the costs and their copy to the host, and return the function that solves and uploads the matches.

    Whatever is queued between the two calls runs on the device while the host solves.

    Args:
        hungarian: levels for the Hungarian matcher.
        o2m: the level for the one-to-many matcher.
        targets: ground truth.
        config: weights of the costs and settings of the one-to-many matcher.
        mask_valid_N: bool [N] on the device when masks are trained, else None.

    Returns:
        A function without arguments; calling it waits for the copy (the step's only wait for the device).
    """
    parts = [assignment_cost(hungarian, targets, config)]
    if o2m is not None:
        parts.append(accepted_by_many(o2m, targets, config))
    if mask_valid_N is not None:
        parts.append(mask_valid_N)
    download = Download(parts)
    queries = hungarian.logits_GBQ.shape[2]
    device = hungarian.logits_GBQ.device

    def finish() -> Matches:
        arrays = download.arrays()
        valid_N = arrays.pop().astype(bool) if mask_valid_N is not None else None
        slots, objects = solve_assignments(arrays[0], targets.num_boxes)
        solved = [_host_group(slots, objects, valid_N)]
        if o2m is not None:
            slots, objects = pairs_accepted(arrays[1].astype(bool), targets.num_boxes, queries)
            solved.append(_host_group(slots, objects, valid_N))
        groups = _upload_groups(solved, device, masks=valid_N is not None)
        return Matches(groups[0], groups[1] if o2m is not None else None)

    return finish


def assignment_cost(levels: LevelGroup, targets: PackedTargets, config: LossConfig) -> Tensor:
    """Return the Hungarian cost [G, N, Q] of every object against the queries of its own pair."""
    prob_GBQ = levels.logits_GBQ.sigmoid()
    class_GBQ = (1 - FOCAL_ALPHA) * prob_GBQ.square() * F.logsigmoid(-levels.logits_GBQ) - FOCAL_ALPHA * (
        1 - prob_GBQ
    ).square() * F.logsigmoid(levels.logits_GBQ)
    groups, _, queries = levels.logits_GBQ.shape
    at_once = max(1, COSTS_AT_ONCE // max(1, groups * queries))
    parts = []
    for pair_n, boxes_n4 in zip(
        torch.split(targets.pair_N, at_once), torch.split(targets.boxes_N4, at_once), strict=True
    ):
        predicted_GnQ4 = levels.boxes_GBQ4.index_select(1, pair_n)
        object_n14 = boxes_n4[:, None, :]
        distance_GnQ = (predicted_GnQ4 - object_n14).abs().sum(-1)
        _, giou_GnQ = iou_and_giou(predicted_GnQ4, object_n14)
        class_GnQ = class_GBQ.index_select(1, pair_n)
        parts.append(config.cost_bbox * distance_GnQ + config.cost_class * class_GnQ - config.cost_giou * giou_GnQ)
    return torch.cat(parts, 1)


def accepted_by_many(level: LevelGroup, targets: PackedTargets, config: LossConfig) -> Tensor:
    """Return bool [N, Q]: which queries of its pair the one-to-many matcher gives to each object."""
    prob_NQ = level.logits_GBQ[0].sigmoid().index_select(0, targets.pair_N)
    iou_NQ, _ = iou_and_giou(level.boxes_GBQ4[0].index_select(0, targets.pair_N), targets.boxes_N4[:, None, :])
    score_NQ = config.o2m_alpha * prob_NQ + (1 - config.o2m_alpha) * iou_NQ
    quantile_N1 = upper_quantile(score_NQ, config.o2m_topk)
    return (score_NQ > config.o2m_threshold) & (score_NQ > quantile_N1)


def upper_quantile(score_NQ: Tensor, topk: int) -> Tensor:
    """Return the (1 - topk/Q) quantile of each row, linearly interpolated, as [N, 1]; the minimum where topk >= Q.

    The same value as `torch.quantile`, from the few largest entries alone and without its look at the arguments.
    """
    queries = score_NQ.shape[1]
    from_top = (queries - 1) * min(topk / queries, 1.0)
    below = int(from_top)
    largest = score_NQ.topk(min(below + 2, queries), dim=1).values
    upper, lower = largest[:, below : below + 1], largest[:, -1:]
    return torch.lerp(upper, lower, from_top - below)


def solve_assignments(cost_GNQ: npt.NDArray[Any], num_boxes: list[int]) -> tuple[Indices, Indices]:
    """Solve the assignment of every pair of every level.

    Args:
        cost_GNQ: costs of packed objects against the queries of their pair; entries that are not finite are replaced.
        num_boxes: objects of each pair; a pair with more objects than queries leaves the dearest unmatched.

    Returns:
        Slots (pair * Q + query) and packed object indices, int64 [G, M], sorted by slot.
    """
    levels, _, queries = cost_GNQ.shape
    if not np.isfinite(cost_GNQ).all():
        cost_GNQ = np.nan_to_num(cost_GNQ, nan=COST_OF_NAN, posinf=COST_OF_NAN, neginf=-COST_OF_NAN)
    starts = np.concatenate([[0], np.cumsum(num_boxes, dtype=np.int64)])
    occupied = [pair for pair, count in enumerate(num_boxes) if count]
    if not occupied:
        return np.zeros((levels, 0), np.int64), np.zeros((levels, 0), np.int64)
    slots, objects = [], []
    for pair in occupied:
        start, end = starts[pair], starts[pair + 1]
        solved = [linear_sum_assignment(cost_GNQ[level, start:end].T) for level in range(levels)]
        slots.append(np.stack([query for query, _ in solved]) + pair * queries)
        objects.append(np.stack([target for _, target in solved]) + start)
    return np.concatenate(slots, 1).astype(np.int64), np.concatenate(objects, 1).astype(np.int64)


def pairs_accepted(accepted_NQ: npt.NDArray[np.bool_], num_boxes: list[int], queries: int) -> tuple[Indices, Indices]:
    """Return slots and packed object indices, int64 [1, M], of accepted entries, sorted by slot, then object."""
    objects, query = np.nonzero(accepted_NQ)
    pair_of_object = np.repeat(np.arange(len(num_boxes)), num_boxes)
    slots = pair_of_object[objects] * queries + query
    order = np.lexsort((objects, slots))
    return slots[order][None].astype(np.int64), objects[order][None].astype(np.int64)


_HostGroup = tuple[Indices, Indices, Indices, Indices, Indices, Indices]


def _host_group(slots: Indices, objects: Indices, valid_N: npt.NDArray[np.bool_] | None) -> _HostGroup:
    """Return slots and objects of all matches, of the scored ones, and of those of the first level with a mask."""
    # Only the one-to-many matcher repeats a slot, and its group has one level; the last of equal slots wins.
    keep = np.ones(slots.shape[1], dtype=bool)
    if len(slots) == 1:
        keep[:-1] = slots[0, 1:] != slots[0, :-1]
    with_mask = np.zeros(slots.shape[1], dtype=bool) if valid_N is None else valid_N[objects[0]]
    return slots, objects, slots[:, keep], objects[:, keep], slots[0, with_mask], objects[0, with_mask]


def _upload_groups(solved: list[_HostGroup], device: torch.device, *, masks: bool) -> list[GroupMatches]:
    tensors = upload([array for group in solved for array in group], device)
    groups = []
    for first in range(0, len(tensors), 6):
        every, scored, with_mask = (MatchIndex(tensors[first + i], tensors[first + i + 1]) for i in (0, 2, 4))
        groups.append(GroupMatches(every, scored, with_mask if masks else None))
    return groups
