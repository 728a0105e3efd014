"""The geometry CLS token: what upstream appends to the text tokens even when no box is drawn.

Without box prompts the geometry encoder holds a single learned token that attends to the image. It does not depend on
the phrase, so it is computed once per image and shared by the image's pairs (with dropout they share its draw).
`Sam3Model.forward` leaves the token out unless a box is passed; passing one padded box (label -10) gives the same
result as this module.
"""

import torch
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3GeometryEncoder, Sam3GeometryEncoderLayer

from sam3ft_trainer.model.attention import attend, feed_forward, residual
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.regularization import Regularization

BOX_PROMPT_MODULES = (
    "label_embed",
    "boxes_direct_project",
    "boxes_pool_project",
    "boxes_pos_enc_project",
    "vision_layer_norm",
)
"""Modules of the geometry encoder that only box prompts use: their gradient is zero, not absent, as upstream's."""


def _layer(
    layer: Sam3GeometryEncoderLayer, token_I1d: Tensor, image_IKd: Tensor, position_1Kd: Tensor, rates: Regularization
) -> Tensor:
    attention_rate, rate = rates.attention_dropout, rates.dropout
    normed = layer.layer_norm1(token_I1d)
    branch = attend(layer.self_attn, normed, normed, normed, mask=None, dropout=attention_rate)
    token_I1d = residual(token_I1d, branch, rate)
    normed = layer.layer_norm2(token_I1d)
    keys = image_IKd + position_1Kd
    branch = attend(layer.cross_attn, normed, keys, image_IKd, mask=None, dropout=attention_rate)
    token_I1d = residual(token_I1d, branch, rate)
    return residual(token_I1d, feed_forward(layer.mlp, layer.layer_norm3(token_I1d), rate), rate)


def _box_prompt_zero(encoder: Sam3GeometryEncoder) -> Tensor:
    """Zero that depends on every box-prompt parameter: AdamW then decays them as upstream's does.

    Sums of empty slices, so that the gradient is exactly zero whatever the values are.
    """
    parameters = [p for name in BOX_PROMPT_MODULES for p in getattr(encoder, name).parameters()]
    return torch.stack([p.flatten()[:0].sum() for p in parameters]).sum()


def geometry_token(
    encoder: Sam3GeometryEncoder,
    image_IKd: Tensor,
    position_1Kd: Tensor,
    regularization: Regularization,
    checkpointing: Checkpointing,
) -> Tensor:
    """Return the encoded CLS token of each image [I, 1, d]; `image_IKd` are the level-2 features as tokens.

    Equal to `encoder(...)` with zero boxes (upstream `SequenceGeometryEncoder` with an empty prompt).
    """
    token = encoder.cls_embed.weight.unsqueeze(0) + _box_prompt_zero(encoder)
    token = encoder.prompt_layer_norm(encoder.final_proj(token.expand(image_IKd.shape[0], -1, -1)))
    for layer in encoder.layers:
        token = checkpointing.run("geometry", _layer, layer, token, image_IKd, position_1Kd, regularization)
    output: Tensor = encoder.output_layer_norm(token)
    return output
