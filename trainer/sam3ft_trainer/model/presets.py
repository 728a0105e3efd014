"""Models with random weights: small ones that learn, for trials and tests, and the real size for benchmarks.

`preset:tiny` is the demo's model; `preset:tiny-nano` to `preset:tiny-small` are smaller; `preset:sam3` has the
architecture of the published model, 840 million parameters. Weights depend on the seed alone (on one torch version).
"""

import math

import torch
from torch import nn
from transformers import Sam3Config, Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3DecoderMLP

from sam3ft_trainer.model.build import allocate, set_resolution
from sam3ft_trainer.model.preset_sizes import PATCH, REAL, Size, preset_resolution, preset_size
from sam3ft_trainer.model.text import BYTE_VOCABULARY_SIZE

_OUTSIDE = 12.0
"""Logits that a position loses for a log-scaled distance of 1 outside the box; a tenth of the image is 0.28."""
_BOX_SIDE = 0.2
"""Width and height of the initial reference boxes, as a fraction of the image."""


def preset_config(name: str, *, resolution: int | None = None) -> Sam3Config:
    """Return the architecture of a preset for inputs of `resolution` pixels (None: the preset's own).

    Raises:
        InvalidConfig: unknown preset, or a resolution that is no multiple of the patch size.
    """
    config = Sam3Config() if name == REAL else _small_config(preset_size(name))
    return set_resolution(config, resolution or preset_resolution(name))


def _small_config(size: Size) -> Sam3Config:
    width = size.hidden
    detr = {"hidden_size": width, "num_attention_heads": 2, "intermediate_size": 2 * width}
    return Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": width,
                "intermediate_size": size.vit_ff,
                "num_hidden_layers": size.vit_layers,
                "num_attention_heads": size.heads,
                "image_size": size.resolution,
                "patch_size": PATCH,
                "window_size": size.window,
                "global_attn_indexes": [size.vit_layers - 1],
                "pretrain_image_size": size.pretrain,
            },
            "fpn_hidden_size": width,
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": BYTE_VOCABULARY_SIZE,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": 2,
            "projection_dim": 16,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
            "bos_token_id": BYTE_VOCABULARY_SIZE - 2,
            "eos_token_id": BYTE_VOCABULARY_SIZE - 1,
            "pad_token_id": BYTE_VOCABULARY_SIZE - 1,
        },
        geometry_encoder_config={**detr, "num_layers": 1, "roi_size": 3},
        detr_encoder_config={**detr, "num_layers": size.encoder_layers},
        detr_decoder_config={**detr, "num_layers": size.decoder_layers, "num_queries": size.queries},
        mask_decoder_config={"hidden_size": width, "num_attention_heads": 2},
    )


def build_preset(config: Sam3Config, *, seed: int) -> Sam3Model:
    """Return a model of the given architecture with random float32 weights on the CPU."""
    sam3 = allocate(config)
    initialise(sam3, seed)
    return sam3


def grid_reference_boxes(num_queries: int) -> torch.Tensor:
    """Return float32 [Q, 4] cx cy w h: centres on a regular grid over the image, sides of a fifth of it."""
    columns = math.ceil(math.sqrt(num_queries))
    rows = math.ceil(num_queries / columns)
    index = torch.arange(num_queries)
    centre_x = (index % columns + 0.5) / columns
    centre_y = (index // columns + 0.5) / rows
    side = torch.full_like(centre_x, _BOX_SIDE)
    return torch.stack([centre_x, centre_y, side, side], dim=1)


@torch.no_grad()
def initialise(sam3: Sam3Model, seed: int) -> None:
    """Fill every parameter so that training from scratch works, without touching the global random state.

    Linear layers and convolutions: Xavier uniform, zero bias. Norms: 1 and 0. Queries: standard normal, as upstream
    trains them; other embeddings: normal with 0.02. Reference boxes: a regular grid, and a box head that starts at
    zero, so that the first predictions cover the image, and queries that look into their box.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in sam3.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
    decoder = sam3.detr_decoder
    nn.init.normal_(sam3.vision_encoder.backbone.embeddings.position_embeddings, std=0.02, generator=generator)
    nn.init.normal_(decoder.query_embed.weight, generator=generator)
    nn.init.zeros_(decoder.box_head.layer3.weight)
    decoder.reference_points.weight.copy_(torch.logit(grid_reference_boxes(decoder.reference_points.num_embeddings)))
    for bias in (decoder.box_rpb_embed_x, decoder.box_rpb_embed_y):
        _look_into_the_box(bias)


def _look_into_the_box(bias: Sam3DecoderMLP) -> None:
    """Let a query begin by looking where its box is, as a trained decoder does.

    The box-relative bias maps, along one axis, the log-scaled distances (d0, d1) of a position to the two edges of the
    box to a logit for each head. Two hidden units become relu(-d0) and relu(d1), which are zero inside the box and grow
    outside it; the heads take them with `_OUTSIDE` times a half, a third, ... All other units start without effect.
    """
    bias.layer1.weight[:2] = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    bias.layer2.weight.zero_()
    heads = torch.arange(bias.layer2.out_features)
    bias.layer2.weight[:, :2] = -(_OUTSIDE / (heads + 1))[:, None]
