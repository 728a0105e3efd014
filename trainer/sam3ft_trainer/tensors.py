"""The three bundles of tensors that flow through a training step: Batch -> Predictions -> loss against Targets.

Dimensions, used in every docstring of the trainer:
    I images of the micro-batch   S side of the square input in pixels   T unique phrases
    B (image, phrase) pairs       Q queries      L decoder layers        N ground-truth objects, packed pair after pair
    h, w  side of the predicted masks

Boxes are float32 `cx, cy, w, h` as fractions of the padded square input.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """Ground truth of B pairs, packed: the objects of pair 0, then those of pair 1, and so on.

    Attributes:
        boxes_N4: float32 [N, 4], cx cy w h.
        num_boxes_B: int64 [B], sums to N. Lives on the CPU: the matcher and the splits need it there.
        masks_NSS: uint8 [N, S, S], 0 or 1; None in detection.
        mask_valid_N: bool [N]; False means the object has no mask (its mask is all zero). None in detection.
        exhaustive_B: bool [B], on the CPU; False means that the pair's category is only partly annotated in this
            image, so what is not boxed is unknown rather than background. None: every pair is complete.
    """

    boxes_N4: Tensor
    num_boxes_B: Tensor
    masks_NSS: Tensor | None = None
    mask_valid_N: Tensor | None = None
    exhaustive_B: Tensor | None = None

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Self:
        """Return a copy on `device`; `num_boxes_B` and `exhaustive_B` stay on the CPU."""
        return replace(
            self,
            boxes_N4=self.boxes_N4.to(device, non_blocking=non_blocking),
            masks_NSS=None if self.masks_NSS is None else self.masks_NSS.to(device, non_blocking=non_blocking),
            mask_valid_N=None if self.mask_valid_N is None else self.mask_valid_N.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch as the loader hands it over, on the CPU.

    A quarantined image keeps its place in `image_ids` and `pixels` and has no pair, so it weighs nothing.

    Attributes:
        pixels_I3SS: uint8 [I, 3, S, S], before normalisation; packed, [I, S, S, 3] in memory, as it comes from the
            loader, whose memory it is: kept alive by what refers to it.
        phrases: T unique phrases, at most 32 tokens each after truncation.
        img_idx_B: int64 [B], image of each pair.
        txt_idx_B: int64 [B], phrase of each pair.
        targets: ground truth of the B pairs.
        image_ids: I COCO image ids, in the order of the global window.
        category_ids: B COCO category ids.
    """

    pixels_I3SS: Tensor
    phrases: tuple[str, ...]
    img_idx_B: Tensor
    txt_idx_B: Tensor
    targets: Targets
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs of the training forward for B pairs; the last layer is the final one.

    Attributes:
        logits_LBQ: float [L, B, Q], before the sigmoid.
        boxes_LBQ4: float [L, B, Q, 4], cx cy w h in 0..1.
        presence_LB: float [L, B] logits, not clamped.
        logits_o2m_LBQ, boxes_o2m_LBQ4: the one-to-many branch; None without it (evaluation, `model.o2m: false`).
        masks_BQhw: float [B, Q, h, w] logits of the final layer; None in detection.
        masks_o2m_BQhw: the same of the one-to-many branch.
        semantic_B1hw: float [B, 1, h, w] logits of the union mask; None in detection.
    """

    logits_LBQ: Tensor
    boxes_LBQ4: Tensor
    presence_LB: Tensor
    logits_o2m_LBQ: Tensor | None = None
    boxes_o2m_LBQ4: Tensor | None = None
    masks_BQhw: Tensor | None = None
    masks_o2m_BQhw: Tensor | None = None
    semantic_B1hw: Tensor | None = None

    def float(self) -> Self:
        """Return the same predictions in float32 (float64 stays), as the losses want them."""
        names = [f.name for f in fields(self)]
        values = {name: getattr(self, name) for name in names}
        return replace(
            self,
            **{
                name: value.float() if value is not None and value.dtype != torch.float64 else value
                for name, value in values.items()
            },
        )


@dataclass(frozen=True, slots=True)
class GlobalCounts:
    """Counts over the global batch that make the loss of a step independent of how it is split.

    float64 scalars as Python numbers: they are reduced ahead of the step, on a group of their own.

    Attributes:
        num_boxes: sum of ground-truth boxes, before the lower bound of 1.
        num_pairs: sum of (image, phrase) pairs, P.
        num_mask_pairs: pairs whose union mask is not empty, P+.
    """

    num_boxes: float
    num_pairs: float
    num_mask_pairs: float
