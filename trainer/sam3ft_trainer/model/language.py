"""Phrases to text features: the CLIP text transformer and SAM 3's projection, each unique phrase once."""

import torch
from torch import Tensor
from transformers import Sam3Model
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from sam3ft_trainer.model.checkpointing import Checkpointing


def _text_layer(layer: CLIPEncoderLayer, hidden: Tensor, mask: Tensor) -> Tensor:
    output: Tensor = layer(hidden, mask, is_causal=True)
    return output


def _causal_mask(attention_mask_TK: Tensor) -> Tensor:
    """Return bool [T, 1, K, K]: a token sees itself and real tokens before it. Nothing is asked of the device."""
    tokens = attention_mask_TK.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=attention_mask_TK.device).tril()
    return causal & valid_tokens(attention_mask_TK)[:, None, None, :]


def encode_text(
    sam3: Sam3Model, input_ids_TK: Tensor, attention_mask_TK: Tensor, checkpointing: Checkpointing
) -> Tensor:
    """Return text features [T, K, d]: last hidden state of CLIP, projected to the DETR width.

    Equal to `sam3.get_text_features(...).pooler_output`; CLIP's own pooled projection, which SAM 3 never reads, is not
    computed. Features at padding positions mean nothing and must be masked by the reader.

    Raises:
        RuntimeError: the text encoder's weights were released (see `PhraseCache.release_encoder`).
    """
    text = sam3.text_encoder.text_model
    if text.embeddings.token_embedding.weight.is_meta and not input_ids_TK.is_meta:
        raise RuntimeError("the text encoder's weights were released; pass text_features_TKD from the PhraseCache")
    hidden: Tensor = text.embeddings(input_ids=input_ids_TK)
    mask = _causal_mask(attention_mask_TK)
    for layer in text.encoder.layers:
        hidden = checkpointing.run("text", _text_layer, layer, hidden, mask)
    features: Tensor = sam3.text_projection(text.final_layer_norm(hidden))
    return features


def valid_tokens(attention_mask_TK: Tensor) -> Tensor:
    """Return the mask as bool, True where a token is real."""
    return attention_mask_TK.to(torch.bool)
