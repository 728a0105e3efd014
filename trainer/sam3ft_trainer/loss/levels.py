"""Decoder outputs gathered into groups that are matched and scored in one go, and targets laid out beside them.

The levels of a step are the final layer and the earlier ("aux") layers, each also with a one-to-many branch. All of
them but the last layer's one-to-many branch use the Hungarian matcher, so they make one group; that branch is the
other. Within a group every operation is one kernel over all levels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam3ft_trainer.loss.transfer import Indices, upload
from sam3ft_trainer.tensors import Predictions, Targets


@dataclass(frozen=True, slots=True)
class LevelGroup:
    """G levels that share a matcher.

    Attributes:
        suffixes: what is appended to a term's name, one per level: "", "_aux_0", "_aux_0_o2m", ...
        num_o2o: how many of the levels come first and count once; the others belong to the one-to-many branch.
        o2m_weight: factor of the terms of those others.
        logits_GBQ: float32 or float64 [G, B, Q].
        boxes_GBQ4: the same dtype [G, B, Q, 4].
    """

    suffixes: tuple[str, ...]
    num_o2o: int
    o2m_weight: float
    logits_GBQ: Tensor
    boxes_GBQ4: Tensor

    def factors(self) -> Tensor:
        """Return the weight of each level's terms as [G], made on the device: 1, or `o2m_weight`."""
        ones = self.logits_GBQ.new_ones(self.num_o2o)
        others = self.logits_GBQ.new_full((len(self.suffixes) - self.num_o2o,), self.o2m_weight)
        return torch.cat([ones, others])

    def gather(self, values: Tensor, slots_GM: Tensor) -> Tensor:
        """Pick M entries of each level from `values`, which is `logits_GBQ` or `boxes_GBQ4`.

        `index_select` over one dimension: its backward adds in a fixed order on the CPU, that of `values[a, b]` does
        not.

        Args:
            values: [G, B, Q, ...].
            slots_GM: int64 [G, M], pair * Q + query.

        Returns:
            [G, M, ...].
        """
        levels, pairs, queries = values.shape[:3]
        offsets_G1 = torch.arange(levels, device=values.device)[:, None] * (pairs * queries)
        flat = values.reshape(levels * pairs * queries, *values.shape[3:])
        picked = flat.index_select(0, (slots_GM + offsets_G1).reshape(-1))
        return picked.reshape(*slots_GM.shape, *values.shape[3:])


@dataclass(frozen=True, slots=True)
class PackedTargets:
    """Ground truth with what the losses derive from it, on the device of the predictions.

    Attributes:
        boxes_N4: cx cy w h, in the dtype of the predictions.
        pair_N: int64 [N], the pair that each object belongs to.
        present_B: 1.0 where a pair has an object with width and height, else 0.0.
        exhaustive_B: 1.0 where everything that is not boxed is background, else 0.0.
        num_boxes: objects of each pair, on the host.
        exhaustive: the same as `exhaustive_B`, on the host.
    """

    boxes_N4: Tensor
    pair_N: Tensor
    present_B: Tensor
    exhaustive_B: Tensor
    num_boxes: list[int]
    exhaustive: list[bool]


def working_precision(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32, the precision of the losses; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def hungarian_levels(predictions: Predictions, o2m_weight: float) -> LevelGroup:
    """Return every level that the Hungarian matcher serves: the final one, the aux ones, the aux ones of o2m."""
    aux = predictions.logits_LBQ.shape[0] - 1
    suffixes = ["", *(f"_aux_{i}" for i in range(aux))]
    logits = [predictions.logits_LBQ[-1:], predictions.logits_LBQ[:-1]]
    boxes = [predictions.boxes_LBQ4[-1:], predictions.boxes_LBQ4[:-1]]
    if predictions.logits_o2m_LBQ is not None and predictions.boxes_o2m_LBQ4 is not None:
        suffixes += [f"_aux_{i}_o2m" for i in range(aux)]
        logits.append(predictions.logits_o2m_LBQ[:-1])
        boxes.append(predictions.boxes_o2m_LBQ4[:-1])
    return LevelGroup(
        tuple(suffixes), aux + 1, o2m_weight, working_precision(torch.cat(logits)), working_precision(torch.cat(boxes))
    )


def o2m_level(predictions: Predictions, o2m_weight: float) -> LevelGroup | None:
    """Return the last layer's one-to-many branch as a group of one level; None where the model ran without it."""
    if predictions.logits_o2m_LBQ is None or predictions.boxes_o2m_LBQ4 is None:
        return None
    logits, boxes = predictions.logits_o2m_LBQ[-1:], predictions.boxes_o2m_LBQ4[-1:]
    return LevelGroup(("_o2m",), 0, o2m_weight, working_precision(logits), working_precision(boxes))


def pack_targets(targets: Targets, like: Tensor) -> PackedTargets:
    """Lay out `targets` beside predictions of the device and dtype of `like`; nothing waits for the device."""
    num_boxes = targets.num_boxes_B.tolist()
    exhaustive = [True] * len(num_boxes) if targets.exhaustive_B is None else targets.exhaustive_B.tolist()
    pair_of_object: Indices = np.repeat(np.arange(len(num_boxes), dtype=np.int64), num_boxes)
    pair_N, exhaustive_B = upload([pair_of_object, np.asarray(exhaustive, dtype=np.int64)], like.device)
    boxes_N4 = targets.boxes_N4.to(like, non_blocking=True)
    has_area_N = (boxes_N4[:, 2:] > 0).all(1).to(like.dtype)
    # Sums of ones are exact in any order, so this is the same on every device.
    areas_B = torch.zeros(len(num_boxes), dtype=like.dtype, device=like.device).index_add_(0, pair_N, has_area_N)
    return PackedTargets(
        boxes_N4, pair_N, (areas_B > 0).to(like.dtype), exhaustive_B.to(like.dtype), num_boxes, exhaustive
    )
