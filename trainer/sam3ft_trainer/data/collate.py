"""Samples to a `Batch`. Pure."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sam3ft_trainer.data.sample import Pair, Sample
from sam3ft_trainer.tensors import Batch, Targets


def collate(samples: Sequence[Sample], *, size: int, masks: bool, pixels_I3SS: Tensor | None = None) -> Batch:
    """Return one micro-batch; pairs in the order of the samples, equal phrases on one text row.

    Without samples the batch is a dummy that keeps a rank in lockstep: one black image, no id, no pair, no weight.

    Args:
        samples: of the images, in order.
        size: S, side of the square in pixels.
        masks: whether the targets carry masks.
        pixels_I3SS: the memory that the samples' pixels were written into one after another; copied together when None.
    """
    pairs = [pair for sample in samples for pair in sample.pairs]
    text_rows = {phrase: row for row, phrase in enumerate(dict.fromkeys(pair.phrase for pair in pairs))}
    img_idx = [image for image, sample in enumerate(samples) for _ in sample.pairs]
    if pixels_I3SS is None:
        stack = [sample.pixels_3SS for sample in samples] or [torch.zeros(3, size, size, dtype=torch.uint8)]
        pixels_I3SS = torch.stack(stack)
    return Batch(
        pixels_I3SS=pixels_I3SS,
        phrases=tuple(text_rows),
        img_idx_B=torch.tensor(img_idx, dtype=torch.int64),
        txt_idx_B=torch.tensor([text_rows[pair.phrase] for pair in pairs], dtype=torch.int64),
        targets=_targets(pairs, size=size, masks=masks),
        image_ids=tuple(sample.image_id for sample in samples),
        category_ids=tuple(pair.category_id for pair in pairs),
    )


def _targets(pairs: Sequence[Pair], *, size: int, masks: bool) -> Targets:
    boxes = np.concatenate([np.zeros((0, 4), dtype=np.float32), *(pair.boxes_N4 for pair in pairs)])
    return Targets(
        boxes_N4=torch.from_numpy(boxes),
        num_boxes_B=torch.tensor([len(pair.boxes_N4) for pair in pairs], dtype=torch.int64),
        masks_NSS=_joined([pair.masks_NSS for pair in pairs], torch.zeros(0, size, size, dtype=torch.uint8), masks),
        mask_valid_N=_joined([pair.mask_valid_N for pair in pairs], torch.zeros(0, dtype=torch.bool), masks),
        exhaustive_B=None
        if all(pair.exhaustive for pair in pairs)
        else torch.tensor([pair.exhaustive for pair in pairs], dtype=torch.bool),
    )


def _joined(parts: Sequence[Tensor | None], empty: Tensor, wanted: bool) -> Tensor | None:  # noqa: FBT001 - private
    return torch.cat([empty, *(part for part in parts if part is not None)]) if wanted else None
