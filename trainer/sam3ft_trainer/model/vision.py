"""Images to feature maps: the ViT with drop path, and only those levels of the neck that the task reads."""

import math

import torch
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import (
    Sam3FPNLayer,
    Sam3VisionModel,
    Sam3ViTLayer,
    Sam3ViTModel,
    Sam3ViTRoPEAttention,
    rotate_pairwise,
    window_partition,
    window_unpartition,
)

from sam3ft_trainer.model.attention import scaled_dot_product, split_heads
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.regularization import Regularization, branch_scales

DETR_LEVEL = 2
"""The neck's level at the ViT's own stride: all that geometry encoder, fusion encoder and decoder read."""
MASK_LEVELS = (0, 1, 2)
"""What the mask decoder reads; the neck's last level is read by nobody."""

Rotation = tuple[Tensor, Tensor]
"""cos and sin [1, tokens, head dim] of the rotary position embedding."""


def rotate(x_WHKd: Tensor, rotation: Rotation) -> Tensor:
    """Return `x` rotated by its position, computed in at least float32."""
    cos, sin = rotation
    wide = x_WHKd.to(torch.promote_types(x_WHKd.dtype, torch.float32))
    rotated: Tensor = (wide * cos + rotate_pairwise(wide) * sin).type_as(x_WHKd)
    return rotated


def rope_attention(attention: Sam3ViTRoPEAttention, x_WhwD: Tensor, rotation: Rotation) -> Tensor:
    """Return self-attention within each of W windows of h x w tokens; upstream has no dropout here."""
    windows, height, width, _ = x_WhwD.shape
    tokens = x_WhwD.flatten(1, 2)
    heads = attention.num_attention_heads
    context = scaled_dot_product(
        rotate(split_heads(attention.q_proj(tokens), heads), rotation),
        rotate(split_heads(attention.k_proj(tokens), heads), rotation),
        split_heads(attention.v_proj(tokens), heads),
        mask=None,
        dropout=0.0,
    )
    output: Tensor = attention.o_proj(context.transpose(1, 2).reshape(windows, height, width, -1))
    return output


def vit_block(layer: Sam3ViTLayer, x_IhwD: Tensor, rotation: Rotation, scales: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return one pre-norm block: (windowed) attention and MLP, each a residual branch.

    `scales` [I, 1, 1, 1] multiply the two branches of each image (drop path); None leaves them as they are.
    """
    height, width = x_IhwD.shape[1:3]
    branch = layer.layer_norm1(x_IhwD)
    if layer.window_size > 0:
        branch, padded = window_partition(branch, layer.window_size)
        branch = rope_attention(layer.attention, branch, rotation)
        branch = window_unpartition(branch, layer.window_size, padded, (height, width))
    else:
        branch = rope_attention(layer.attention, branch, rotation)
    x_IhwD = x_IhwD + (branch if scales is None else branch * scales[0])
    outer: Tensor = layer.mlp(layer.layer_norm2(x_IhwD))
    return x_IhwD + (outer if scales is None else outer * scales[1])


def _rotations(backbone: Sam3ViTModel, like: Tensor) -> dict[int, Rotation]:
    """One rotation for each window size: the layers of a size share their positions."""
    found: dict[int, Rotation] = {}
    for layer in backbone.layers:
        if layer.window_size not in found:
            found[layer.window_size] = layer.rotary_emb(like, layer.position_ids)
    return found


def run_backbone(
    backbone: Sam3ViTModel, pixels_I3SS: Tensor, regularization: Regularization, checkpointing: Checkpointing
) -> Tensor:
    """Return the ViT's features [I, D, g, g], g = S / patch size, before the neck."""
    grid_h, grid_w = (side // backbone.config.patch_size for side in pixels_I3SS.shape[-2:])
    embedded: Tensor = backbone.embeddings(pixels_I3SS)
    x_IhwD: Tensor = backbone.layer_norm(embedded.view(-1, grid_h, grid_w, embedded.shape[-1]))
    rotations = _rotations(backbone, x_IhwD)
    rates = regularization.block_rates(len(backbone.layers))
    for layer, rate in zip(backbone.layers, rates, strict=True):
        # Drawn out here: a block that is computed again needs no random state, and a compiled one has the same draws.
        scales = branch_scales(x_IhwD, rate) if regularization.drop_path > 0 else None
        x_IhwD = checkpointing.run("vision", vit_block, layer, x_IhwD, rotations[layer.window_size], scales)
    return x_IhwD.permute(0, 3, 1, 2)


def _neck_level(level: Sam3FPNLayer, features: Tensor) -> Tensor:
    output: Tensor = level(features)
    return output


def encode_images(
    vision: Sam3VisionModel,
    pixels_I3SS: Tensor,
    levels: tuple[int, ...],
    regularization: Regularization,
    checkpointing: Checkpointing,
) -> tuple[Tensor, ...]:
    """Return the neck's `levels`, each [I, d, side, side], finest first for ascending numbers.

    The side of `DETR_LEVEL` is S / 14; level 1 has twice and level 0 four times as many pixels a side. Levels that are
    not asked for are not computed.
    """
    with checkpointing.scope("vision"):
        features = run_backbone(vision.backbone, pixels_I3SS, regularization, checkpointing)
    with checkpointing.scope("neck"):
        layers = vision.neck.fpn_layers
        return tuple(checkpointing.run("neck", _neck_level, layers[level], features) for level in levels)


def sine_positions(size: tuple[int, int], channels: int, *, like: Tensor) -> Tensor:
    """Return the 2-D sine position encoding [1, h * w, channels] with the dtype and device of `like`.

    As `Sam3SinePositionEmbedding` with `normalize`: half of the channels for y, half for x, sine and cosine in turn,
    temperature 10,000 (DETR, arXiv 2005.12872). Not cached, so that tracing on shapes alone leaves nothing behind.
    """
    half = channels // 2
    index = torch.arange(half, device=like.device)
    divisor = 10_000 ** (2 * torch.div(index, 2, rounding_mode="floor").to(like.dtype) / half)
    axes = []
    for length in size:
        place = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
        angle = (place / (length + 1e-6) * (2 * math.pi))[:, None] / divisor
        axes.append(torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1))
    rows, columns = axes
    height, width = size
    grid = [rows[:, None, :].expand(height, width, half), columns[None, :, :].expand(height, width, half)]
    return torch.cat(grid, dim=2).view(1, height * width, channels)
