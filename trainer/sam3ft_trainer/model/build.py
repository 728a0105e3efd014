"""From a configuration to an allocated model, on the CPU without values or on the meta device without memory."""

import torch
from transformers import Sam3Config, Sam3Model
from transformers.initialization import no_init_weights

from sam3ft_api.errors import InvalidConfig


def set_resolution(config: Sam3Config, resolution: int) -> Sam3Config:
    """Set the input side in pixels on `config`, and return it.

    The positions of the ViT's global layers are fixed when the model is built (its rotary embedding is stretched over
    the grid, as it was for the published 1008 px), so that a model serves one resolution. No weight depends on it: the
    position embedding is tiled.

    Raises:
        InvalidConfig: `resolution` is no multiple of the patch size.
    """
    patch = config.vision_config.backbone_config.patch_size
    if resolution % patch:
        raise InvalidConfig(
            f"scratch.resolution {resolution} is not a multiple of the model's patch size {patch}; "
            f"the nearest are {resolution // patch * patch} and {(resolution // patch + 1) * patch}"
        )
    grid = resolution // patch
    config.vision_config.backbone_config.image_size = resolution
    config.vision_config.backbone_feature_sizes = [[4 * grid, 4 * grid], [2 * grid, 2 * grid], [grid, grid]]
    return config


def allocate(config: Sam3Config) -> Sam3Model:
    """Return a float32 model on the CPU whose parameters hold arbitrary values and whose position buffers are right.

    The global random state is not touched. Every parameter must be filled by the caller.
    """
    with torch.random.fork_rng(devices=[]), no_init_weights():
        return Sam3Model(config)


def allocate_meta(config: Sam3Config) -> Sam3Model:
    """Return the model on the meta device: shapes only, for planning and counting."""
    with torch.device("meta"), no_init_weights():
        return Sam3Model(config)
