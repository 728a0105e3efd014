"""The DETR decoder with one-to-many (DAC) queries, box refinement and presence.

Upstream's training decoder duplicates queries and reference points. The first half (one-to-one) and the presence token
take self-attention, the second half (one-to-many) skips it; norms, cross-attentions and feed-forward are shared.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import (
    Sam3DetrDecoder,
    Sam3DetrDecoderLayer,
    box_cxcywh_to_xyxy,
    inverse_sigmoid,
)

from sam3ft_trainer.model.attention import attend, feed_forward, residual, without_autocast
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.prompt import Prompt
from sam3ft_trainer.model.regularization import Regularization


@dataclass(frozen=True, slots=True)
class Memory:
    """What the queries attend to.

    Attributes:
        image_BKd: encoder output, K = height * width tokens.
        position_1Kd: its position encoding.
        size: (height, width) as Python ints, so that nothing waits for the device.
    """

    image_BKd: Tensor
    position_1Kd: Tensor
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Outputs of all layers; G = Q queries, or 2 Q with the one-to-many half behind the one-to-one half.

    Attributes:
        queries_LBGd: normed query features.
        boxes_LBG4: refined boxes, cx cy w h in 0..1.
        presence_LB: presence logits, not clamped (upstream discards the result of its clamp).
    """

    queries_LBGd: Tensor
    boxes_LBG4: Tensor
    presence_LB: Tensor


def _log_distances(points_n: Tensor, low_BG: Tensor, high_BG: Tensor) -> Tensor:
    """Return signed log2 distances [B, G, n, 2] of grid points to both edges of each box, 1 at a distance of 7/8."""
    edges = torch.stack([low_BG, high_BG], dim=-1).unsqueeze(2)
    deltas = (points_n.view(1, 1, -1, 1) - edges) * 8
    return torch.sign(deltas) * torch.log2(torch.abs(deltas) + 1.0) / math.log2(8)


def box_bias(decoder: Sam3DetrDecoder, boxes_BG4: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the relative position bias [B, heads, 1 + G, h * w]; the row of the presence token is zero.

    The two axes are embedded apart and added in the layout that attention reads, so that the large tensor exists once.
    Without that layout CUDA has no fused kernel for it.
    """
    height, width = size
    x1, y1, x2, y2 = box_cxcywh_to_xyxy(boxes_BG4).unbind(-1)
    rows = torch.arange(height, device=boxes_BG4.device, dtype=boxes_BG4.dtype) / height
    columns = torch.arange(width, device=boxes_BG4.device, dtype=boxes_BG4.dtype) / width
    # The sum of two permuted tensors would be permuted, too; made contiguous while they are small, it is as wanted.
    bias_y = decoder.box_rpb_embed_y(_log_distances(rows, y1, y2)).permute(0, 3, 1, 2).contiguous()
    bias_x = decoder.box_rpb_embed_x(_log_distances(columns, x1, x2)).permute(0, 3, 1, 2).contiguous()
    bias_y, bias_x = F.pad(bias_y, (0, 0, 1, 0)), F.pad(bias_x, (0, 0, 1, 0))
    return (bias_y.unsqueeze(-1) + bias_x.unsqueeze(-2)).flatten(3)


def _self_attention(
    layer: Sam3DetrDecoderLayer, hidden: Tensor, position: Tensor, num_one: int, rates: Regularization
) -> Tensor:
    """Self-attention of presence token and the first `num_one - 1` queries; the norm acts on all."""
    one, many = hidden[:, :num_one], hidden[:, num_one:]
    placed = one + position[:, :num_one]
    branch = attend(layer.self_attn, placed, placed, one, mask=None, dropout=rates.attention_dropout)
    one = residual(one, branch, rates.dropout)
    output: Tensor = layer.self_attn_layer_norm(torch.cat([one, many], dim=1) if many.shape[1] else one)
    return output


def _feed_forward_float32(layer: Sam3DetrDecoderLayer, hidden: Tensor, rate: float) -> Tensor:
    """Upstream runs the decoder's feed-forward with autocast off, in the weights' own precision."""
    with without_autocast(hidden.device):
        return feed_forward(layer.mlp, hidden.to(layer.mlp.fc1.weight.dtype), rate)


def decoder_layer(
    decoder: Sam3DetrDecoder,
    layer: Sam3DetrDecoderLayer,
    hidden: Tensor,
    boxes_BG4: Tensor,
    prompt: Prompt,
    memory: Memory,
    rates: Regularization,
) -> Tensor:
    """Return the hidden states [B, 1 + G, d] (presence token first) after one post-norm layer."""
    num_one = 1 + min(boxes_BG4.shape[1], decoder.query_embed.weight.shape[0])
    position = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes_BG4))
    position = F.pad(position, (0, 0, 1, 0))
    hidden = _self_attention(layer, hidden, position, num_one, rates)

    tokens, dropped = prompt.tokens_BMd, rates.attention_dropout
    branch = attend(
        layer.text_cross_attn, hidden + position, tokens, tokens, mask=prompt.attention_mask, dropout=dropped
    )
    hidden = layer.text_cross_attn_layer_norm(residual(hidden, branch, rates.dropout))

    bias = box_bias(decoder, boxes_BG4, memory.size)
    keys = memory.image_BKd + memory.position_1Kd
    branch = attend(layer.vision_cross_attn, hidden + position, keys, memory.image_BKd, mask=bias, dropout=dropped)
    hidden = layer.vision_cross_attn_layer_norm(residual(hidden, branch, rates.dropout))

    branch = _feed_forward_float32(layer, hidden, rates.dropout)
    output: Tensor = layer.mlp_layer_norm(residual(hidden, branch, rates.dropout))
    return output


def _start(decoder: Sam3DetrDecoder, num_pairs: int, *, o2m: bool) -> tuple[Tensor, Tensor]:
    """Hidden states with the presence token first, and the reference boxes; both doubled for one-to-many queries."""
    copies = 2 if o2m else 1
    queries = decoder.query_embed.weight.repeat(copies, 1)
    hidden = torch.cat([decoder.presence_token.weight, queries])
    boxes = decoder.reference_points.weight.repeat(copies, 1).sigmoid()
    # Laid out as every later layer's, so that they can share a compiled form.
    return hidden.expand(num_pairs, -1, -1).contiguous(), boxes.expand(num_pairs, -1, -1).contiguous()


def decode(
    decoder: Sam3DetrDecoder,
    prompt: Prompt,
    memory: Memory,
    regularization: Regularization,
    checkpointing: Checkpointing,
    *,
    o2m: bool,
) -> Decoded:
    """Run all layers.

    Boxes are refined layer by layer: each layer sees detached boxes, but its own prediction refines the boxes with
    their gradient ("look forward twice", arXiv 2203.03605).
    """
    hidden, boxes = _start(decoder, memory.image_BKd.shape[0], o2m=o2m)
    linked = boxes
    queries, refined, presence = [], [], []
    for layer in decoder.layers:
        hidden = checkpointing.run(
            "decoder", decoder_layer, decoder, layer, hidden, boxes, prompt, memory, regularization
        )
        normed = decoder.output_layer_norm(hidden[:, 1:])
        offset = decoder.box_head(normed)
        queries.append(normed)
        refined.append((inverse_sigmoid(linked) + offset).sigmoid())
        linked = (inverse_sigmoid(boxes) + offset).sigmoid()
        boxes = linked.detach()
        presence.append(decoder.presence_head(decoder.presence_layer_norm(hidden[:, 0])).squeeze(-1))
    return Decoded(torch.stack(queries), torch.stack(refined), torch.stack(presence))
