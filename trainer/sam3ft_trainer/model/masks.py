"""The mask decoder: instance masks of the last layer's queries, and the semantic mask."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3MaskDecoder

from sam3ft_trainer.model.attention import attend
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.prompt import Prompt

PIXELS_AT_ONCE = 1 << 17
"""Mask pixels of the pairs decoded together: one pair at 288 x 288, thirty-two at 64 x 64.

The finest level costs 85 MB in float32 for each pair that reads it. The pieces are the same with and without
checkpointing, so that both give the same bits.
"""


@dataclass(frozen=True, slots=True)
class Masks:
    """Logits of the masks; `many_BQhw` is None without one-to-many queries."""

    one_BQhw: Tensor
    many_BQhw: Tensor | None
    semantic_B1hw: Tensor


@dataclass(frozen=True, slots=True)
class MaskInputs:
    """What the mask decoder reads, for B pairs of I images.

    Attributes:
        levels: the neck's levels [I, d, side, side], finest first; the last one is replaced by the encoder's output.
        img_idx_B: image of each pair.
        image_BKd: encoder output.
        prompt: prompt of each pair.
        one_BQd: last layer's one-to-one queries.
        many_BQd: the one-to-many ones.
    """

    levels: tuple[Tensor, ...]
    img_idx_B: Tensor
    image_BKd: Tensor
    prompt: Prompt
    one_BQd: Tensor
    many_BQd: Tensor | None

    def pairs(self, start: int, stop: int) -> "MaskInputs":
        """Return the same of some pairs; the images' levels stay whole."""
        piece = slice(start, stop)
        return MaskInputs(
            self.levels,
            self.img_idx_B[piece],
            self.image_BKd[piece],
            Prompt(self.prompt.tokens_BMd[piece], self.prompt.valid_BM[piece]),
            self.one_BQd[piece],
            None if self.many_BQd is None else self.many_BQd[piece],
        )


def _decode_pairs(decoder: Sam3MaskDecoder, inputs: MaskInputs) -> tuple[Tensor, ...]:
    prompt, image = inputs.prompt, inputs.image_BKd
    # Upstream's mask head has no dropout.
    branch = attend(
        decoder.prompt_cross_attn,
        decoder.prompt_cross_attn_norm(image),
        prompt.tokens_BMd,
        prompt.tokens_BMd,
        mask=prompt.attention_mask,
        dropout=0.0,
    )
    coarsest = (image + branch).transpose(1, 2).reshape(-1, *inputs.levels[-1].shape[1:])
    levels = [level.index_select(0, inputs.img_idx_B) for level in inputs.levels[:-1]]
    pixels = decoder.pixel_decoder([*levels, coarsest])
    instance = decoder.instance_projection(pixels)
    halves = [half for half in (inputs.one_BQd, inputs.many_BQd) if half is not None]
    masks = [torch.einsum("bqc,bchw->bqhw", decoder.mask_embedder(half), instance) for half in halves]
    return (decoder.semantic_projection(pixels), *masks)


def decode_masks(decoder: Sam3MaskDecoder, inputs: MaskInputs, checkpointing: Checkpointing) -> Masks:
    """Return mask logits at the finest level's size, a few pairs at a time."""
    height, width = inputs.levels[0].shape[-2:]
    step = max(1, PIXELS_AT_ONCE // (height * width))
    num_pairs = inputs.image_BKd.shape[0]
    pieces = [
        checkpointing.run("mask", _decode_pairs, decoder, inputs.pairs(start, min(start + step, num_pairs)))
        for start in range(0, num_pairs, step)
    ]
    semantic, one, *many = (torch.cat(part) if len(pieces) > 1 else part[0] for part in zip(*pieces, strict=True))
    return Masks(one, many[0] if many else None, semantic)
