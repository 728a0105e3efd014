"""The DETR encoder: image tokens of a pair attend to themselves and to the pair's prompt."""

from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3DetrEncoder, Sam3DetrEncoderLayer

from sam3ft_trainer.model.attention import attend, feed_forward, residual
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.prompt import Prompt
from sam3ft_trainer.model.regularization import Regularization


def _layer(
    layer: Sam3DetrEncoderLayer, image_BKd: Tensor, position_1Kd: Tensor, prompt: Prompt, rates: Regularization
) -> Tensor:
    attention_rate, rate = rates.attention_dropout, rates.dropout
    normed = layer.layer_norm1(image_BKd)
    placed = normed + position_1Kd
    branch = attend(layer.self_attn, placed, placed, normed, mask=None, dropout=attention_rate)
    image_BKd = residual(image_BKd, branch, rate)
    normed = layer.layer_norm2(image_BKd)
    tokens = prompt.tokens_BMd
    branch = attend(layer.cross_attn, normed, tokens, tokens, mask=prompt.attention_mask, dropout=attention_rate)
    image_BKd = residual(image_BKd, branch, rate)
    return residual(image_BKd, feed_forward(layer.mlp, layer.layer_norm3(image_BKd), rate), rate)


def fuse(
    encoder: Sam3DetrEncoder,
    image_BKd: Tensor,
    position_1Kd: Tensor,
    prompt: Prompt,
    regularization: Regularization,
    checkpointing: Checkpointing,
) -> Tensor:
    """Return the image tokens of each pair [B, K, d] after all encoder layers."""
    for layer in encoder.layers:
        image_BKd = checkpointing.run("encoder", _layer, layer, image_BKd, position_1Kd, prompt, regularization)
    return image_BKd
