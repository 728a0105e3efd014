"""AdamW with upstream's parameter groups.

Three base rates: vision backbone with its neck, language backbone with the projection behind it, everything else. In
the ViT the rate falls by `layer_decay` per layer towards the input (Bao et al., "BEiT", arXiv 2106.08254, as in
facebookresearch/sam3 `train/optim/optimizer.py`). Biases and layer norms are not decayed; group norms, embeddings and
position embeddings are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import AdamW

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import OptimConfig
from sam3ft_trainer.model.freeze import part_of

VISION_SHARE = 0.3125
"""Upstream's rate of the vision backbone as a share of `optim.lr`: 2.5e-5 of 8e-5."""
LANGUAGE_SHARE = 0.0625
"""Upstream's rate of the language backbone as a share of `optim.lr`: 5e-6 of 8e-5."""

_VIT = "vision_encoder.backbone."
_VIT_LAYER = re.compile(re.escape(_VIT) + r"layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class ParameterOptions:
    """What one parameter is trained with.

    Attributes:
        group: "vision", "language" or "transformer".
        base_lr: the group's rate.
        lr_scale: layer decay, 1 outside the ViT.
        weight_decay: 0 for biases and layer norms.
    """

    group: str
    base_lr: float
    lr_scale: float
    weight_decay: float

    @property
    def peak_lr(self) -> float:
        """The rate at the end of the warm-up."""
        return self.base_lr * self.lr_scale

    @property
    def name(self) -> str:
        """A readable name, equal for parameters that share a group of the optimizer."""
        decay = "" if self.weight_decay else ", no weight decay"
        scale = "" if self.lr_scale == 1 else f" x {self.lr_scale:.4g}"
        return f"{self.group}{scale}{decay}"


def build_optimizer(sam3: nn.Module, config: OptimConfig, *, fused: bool) -> AdamW:
    """Return AdamW over every trainable parameter of `sam3`, each in exactly one group.

    Each group carries `name`, `peak_lr` and `param_names` beside AdamW's own settings. The rate of a step is set from
    `peak_lr` by the schedule; until then `lr` equals it.

    Args:
        sam3: a transformers `Sam3Model`, frozen already as far as it shall be.
        config: rates, decay, betas.
        fused: use the fused kernel. On CUDA it is the fastest and can skip an update without asking the host; on the
            CPU it is faster as well and repeats its bits at a fixed number of threads, but gives other bits than the
            plain loop.

    Raises:
        InvalidConfig: nothing is left to train.
        ValueError: a parameter belongs to no known part of the model, or is shared between parts with different rates.
    """
    trained = [(name, parameter) for name, parameter in sam3.named_parameters() if parameter.requires_grad]
    if not trained:
        raise InvalidConfig(
            "every parameter is frozen, so there is nothing to train; take at least one part out of model.freeze"
        )
    options = parameter_options(sam3, config)
    _check_shared(sam3, options)
    groups: dict[ParameterOptions, list[tuple[str, Tensor]]] = {}
    for name, parameter in trained:
        groups.setdefault(options[name], []).append((name, parameter))
    return AdamW(
        [
            {
                "params": members,
                "lr": chosen.peak_lr,
                "peak_lr": chosen.peak_lr,
                "weight_decay": chosen.weight_decay,
                "name": chosen.name,
            }
            for chosen, members in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=fused or None,  # None lets torch choose between the foreach kernels and the loop
    )


def parameter_options(sam3: nn.Module, config: OptimConfig) -> dict[str, ParameterOptions]:
    """Return the options of every parameter of `sam3`, frozen ones included, by name.

    Raises:
        ValueError: a name is none of `Sam3Model`'s.
    """
    rates = {
        "vision": config.lr * VISION_SHARE if config.lr_vision_backbone is None else config.lr_vision_backbone,
        "language": config.lr * LANGUAGE_SHARE if config.lr_language_backbone is None else config.lr_language_backbone,
        "transformer": config.lr,
    }
    names = [name for name, _ in sam3.named_parameters(remove_duplicate=False)]
    layers = 1 + max((int(found[1]) for name in names if (found := _VIT_LAYER.match(name))), default=-1)
    undecayed = set(_undecayed(sam3))
    chosen = {}
    for name in names:
        group = _group_of(name)
        scale = layer_scale(name, layers, config.layer_decay)
        chosen[name] = ParameterOptions(group, rates[group], scale, 0.0 if name in undecayed else config.weight_decay)
    return chosen


def layer_scale(name: str, layers: int, decay: float) -> float:
    """Return the rate's factor of a parameter: decay ^ (layers - index) in ViT layer `index`, one more before it.

    Patch projection and the layer norm in front of the layers count as layer -1; position embeddings, the neck and
    everything outside the vision encoder have 1.

    Args:
        name: of a parameter of `Sam3Model`.
        layers: layers of the ViT.
        decay: factor per layer.
    """
    if not name.startswith(_VIT) or "position_embeddings" in name:
        return 1.0
    found = _VIT_LAYER.match(name)
    index = int(found[1]) if found else -1
    return float(decay ** (layers - index))


def _group_of(name: str) -> str:
    part = part_of(name)
    return {"vision": "vision", "neck": "vision", "text": "language"}.get(part, "transformer")


def _undecayed(sam3: nn.Module) -> Iterator[str]:
    for prefix, module in sam3.named_modules(remove_duplicate=False):
        for name, _ in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm) or "bias" in name:
                yield f"{prefix}.{name}" if prefix else name


def _check_shared(sam3: nn.Module, options: dict[str, ParameterOptions]) -> None:
    """Refuse a parameter that appears under two names with different options: one of them would be ignored."""
    first: dict[int, str] = {}
    for name, parameter in sam3.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if options[other] != options[name]:
            raise ValueError(
                f"{other!r} and {name!r} are one tensor, but belong to the groups {options[other].name!r} and "
                f"{options[name].name!r}; a tensor can be trained with one setting only"
            )
