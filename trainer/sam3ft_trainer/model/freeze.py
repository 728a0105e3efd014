"""Which parameters are trained: parts frozen by name, and tensors that no gradient can reach in a mode.

Structurally gradient-free tensors are frozen too, so that a missing gradient elsewhere is an error, and so that groups
of processes can count on a gradient for every trained tensor. Tensors that only box prompts use get a gradient of
exactly zero; they stay with the optimizer, whose weight decay acts on them, as upstream has it, unless `geometry` is
frozen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import Sam3Model

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import Part, Task
from sam3ft_trainer.model.checkpointing import PARTS
from sam3ft_trainer.model.text import TEXT_PREFIXES
from sam3ft_trainer.model.vision import DETR_LEVEL, MASK_LEVELS

PART_PREFIXES: dict[Part, tuple[str, ...]] = {
    "vision": ("vision_encoder.backbone.",),
    "text": TEXT_PREFIXES,
    "neck": ("vision_encoder.neck.",),
    "geometry": ("geometry_encoder.",),
    "encoder": ("detr_encoder.",),
    "decoder": ("detr_decoder.", "dot_product_scoring."),
    "mask": ("mask_decoder.",),
}
"""Parameter names of each part; every parameter of `Sam3Model` belongs to exactly one."""


@dataclass(frozen=True, slots=True)
class FreezeReport:
    """What was frozen.

    Attributes:
        parts: parts frozen by name.
        gradient_free: names of further tensors that get no gradient in this mode.
        num_trained: parameters that are trained.
        num_total: parameters of the model.
        trained_by_part: trained parameters of each part.
    """

    parts: tuple[Part, ...]
    gradient_free: tuple[str, ...]
    num_trained: int
    num_total: int
    trained_by_part: dict[Part, int]

    def summary(self) -> str:
        """Return one line for the log."""
        named = ", ".join(self.parts) or "no part"
        share = 100 * self.num_trained / max(1, self.num_total)
        return (
            f"{self.num_trained:,} of {self.num_total:,} parameters trained ({share:.1f} %); "
            f"frozen: {named}, and {len(self.gradient_free)} tensors without a gradient in this mode"
        )


def part_of(name: str) -> Part:
    """Return the part that a parameter of `Sam3Model` belongs to.

    Raises:
        ValueError: the name is none of the model's.
    """
    for part, prefixes in PART_PREFIXES.items():
        if name.startswith(prefixes):
            return part
    raise ValueError(f"{name!r} is no parameter of Sam3Model")


def gradient_free_names(names: Iterable[str], *, task: Task, geometry_cls: bool) -> list[str]:
    """Return those of the parameter `names` that take no part in the training forward of this mode."""
    levels = MASK_LEVELS if task == "segmentation" else (DETR_LEVEL,)
    prefixes = ["text_encoder.text_projection."]
    if task == "detection":
        prefixes.append("mask_decoder.")
    if not geometry_cls:
        prefixes.append("geometry_encoder.")
    return [name for name in names if name.startswith(tuple(prefixes)) or _unused_stage(name, levels)]


def _unused_stage(name: str, levels: tuple[int, ...]) -> bool:
    """Whether a numbered stage of neck or pixel decoder has no level to work on."""
    for prefix, used in (
        ("vision_encoder.neck.fpn_layers.", set(levels)),
        ("mask_decoder.pixel_decoder.conv_layers.", set(range(len(MASK_LEVELS) - 1))),
        ("mask_decoder.pixel_decoder.norms.", set(range(len(MASK_LEVELS) - 1))),
    ):
        if name.startswith(prefix):
            return int(name.removeprefix(prefix).split(".", 1)[0]) not in used
    return False


def freeze_parts(sam3: Sam3Model, parts: tuple[Part, ...], *, task: Task, geometry_cls: bool) -> FreezeReport:
    """Set `requires_grad` of every parameter, and return what is trained.

    Raises:
        InvalidConfig: nothing is left to train.
    """
    parameters = dict(sam3.named_parameters())
    without_gradient = set(gradient_free_names(parameters, task=task, geometry_cls=geometry_cls))
    trained: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in parameters.items():
        part = part_of(name)
        parameter.requires_grad_(part not in parts and name not in without_gradient)
        trained[part] += parameter.numel() if parameter.requires_grad else 0
    if not sum(trained.values()):
        raise InvalidConfig(
            f"model.freeze {', '.join(parts)} leaves nothing to train in {task}; "
            f"take one of {', '.join(part for part in PARTS if part in parts)} out of it"
        )
    named = [name for name in parameters if name in without_gradient and part_of(name) not in parts]
    total = sum(parameter.numel() for parameter in parameters.values())
    return FreezeReport(tuple(parts), tuple(named), sum(trained.values()), total, trained)
