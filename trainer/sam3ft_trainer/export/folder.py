"""Writing a folder that `Sam3Model.from_pretrained` and `Sam3Processor.from_pretrained` load without a warning."""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import Sam3Model, Sam3Processor

from sam3ft_api.errors import ModelUnusable, StorageDenied

Dtype = Literal["float32", "bfloat16", "float16"]
SHARD_BYTES = "5GB"
"""Weights beyond this size are split over several files with an index, the limit that the Hub recommends."""
_RESERVE = 1.02
"""Headers, tokenizer and card beside the weights."""


def rounded_state(sam3: Sam3Model, dtype: Dtype) -> dict[str, Tensor]:
    """Return the model's state on the CPU, floating-point tensors in the dtype of the export.

    Tensors that are on the CPU and of that dtype already are shared with the model, not copied.

    Raises:
        ModelUnusable: weights were released from memory and not restored, or a value is not finite in `dtype`.
    """
    target: torch.dtype = getattr(torch, dtype)
    state: dict[str, Tensor] = sam3.state_dict()
    released = [name for name, tensor in state.items() if tensor.is_meta]
    if released:
        raise ModelUnusable(
            f"{len(released)} tensors ({released[0]}, ...) are not in memory; restore the text encoder before exporting"
        )
    rounded = {
        name: tensor.detach().to("cpu", target) if tensor.is_floating_point() else tensor.detach().cpu()
        for name, tensor in state.items()
    }
    broken = [name for name, tensor in rounded.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ModelUnusable(
            f"{len(broken)} tensors ({broken[0]}, ...) are not finite as {dtype}; "
            "export an earlier checkpoint, or with export.dtype: float32"
        )
    return rounded


def write_folder(
    folder: Path, sam3: Sam3Model, processor: Sam3Processor, *, state: Mapping[str, Tensor], dtype: Dtype
) -> None:
    """Write configuration, weights and processor into the existing, empty `folder`.

    Args:
        folder: where to.
        sam3: only its configuration is used; a model that came from a `sam3_video` folder has its detector's.
        processor: resizes to the resolution of the configuration.
        state: every tensor of the model, from `rounded_state`.
        dtype: dtype of the weights, which the configuration names.

    Raises:
        StorageDenied: the disk has less room than the weights need.
    """
    needed = int(sum(tensor.nbytes for tensor in state.values()) * _RESERVE)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageDenied(f"{folder}: the export needs {needed:,} bytes and {free:,} are free; free some space")
    config: Any = copy.deepcopy(sam3.config)
    config.dtype = dtype
    config.architectures = ["Sam3Model"]
    config.save_pretrained(folder)
    save_torch_state_dict(dict(state), folder, max_shard_size=SHARD_BYTES, metadata={"format": "pt"})
    processor.save_pretrained(folder)
