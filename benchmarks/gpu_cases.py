"""The cases of the GPU benchmark, what they share, and the peaks of known devices."""

import itertools
import re
from dataclasses import dataclass

import torch

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import Compile, ModelConfig, Part, RuntimeConfig, ScratchConfig, TrainingConfig
from sam3ft_trainer.model.cost import LADDER

RECOMPUTED: dict[str, tuple[Part, ...]] = {"none": LADDER[0], "detr": LADDER[1], "all": LADDER[-1]}
"""Names of what is recomputed in backward."""
PEAK_TFLOPS: tuple[tuple[frozenset[str], float], ...] = (
    (frozenset({"H100", "PCIE"}), 756.0),
    (frozenset({"H100", "NVL"}), 835.0),
    (frozenset({"H100"}), 989.0),
    (frozenset({"H200", "NVL"}), 835.0),
    (frozenset({"H200"}), 989.0),
    (frozenset({"GH200"}), 989.0),
    (frozenset({"B200"}), 2250.0),
    (frozenset({"A100"}), 312.0),
    (frozenset({"A30"}), 165.0),
    (frozenset({"A40"}), 150.0),
    (frozenset({"A10"}), 125.0),
    (frozenset({"L40S"}), 362.0),
    (frozenset({"L4"}), 121.0),
    (frozenset({"RTX", "5090"}), 210.0),
    (frozenset({"RTX", "4090"}), 165.0),
    (frozenset({"RTX", "3090"}), 71.0),
)
"""Words of a device's name and its dense bf16 peak with float32 sums in TFLOP/s, from the makers' data sheets."""
OTHER_DEVICES = frozenset({"MIG", "LAPTOP", "D"})
"""Words that make a name stand for a part or a slower kind of the device in the table."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row: task, phrases of each image, images of a micro-batch, and a key of `RECOMPUTED`."""

    task: str
    phrases: int
    images: int
    checkpointing: str

    @classmethod
    def parse(cls, name: str) -> "Case":
        """Return the case called `name`.

        Raises:
            InvalidConfig: it is not of the form TASK-PHRASES-bIMAGES-CHECKPOINTING.
        """
        found = re.fullmatch(rf"(detection|segmentation)-([1-9]\d*)-b([1-9]\d*)-({'|'.join(RECOMPUTED)})", name)
        if found is None:
            raise InvalidConfig(
                f"{name!r} is no case; write detection or segmentation, phrases, b and images, and one of "
                f"{', '.join(RECOMPUTED)}: for instance detection-8-b2-none"
            )
        return cls(found[1], int(found[2]), int(found[3]), found[4])

    @classmethod
    def every(cls) -> "list[Case]":
        """Return all combinations that are measured by default."""
        choices = itertools.product(("detection", "segmentation"), (1, 8), (1, 2, 4), RECOMPUTED)
        return [cls(*choice) for choice in choices]

    @property
    def name(self) -> str:
        """Return what `parse` reads."""
        return f"{self.task}-{self.phrases}-b{self.images}-{self.checkpointing}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What all cases share.

    Attributes:
        preset: model; anything but `sam3` is for trying the benchmark itself.
        resolution: side of the input in pixels.
        device: where the steps run.
        objects: annotated objects of each pair.
        warmup: steps before the clock starts.
        steps: steps that are timed.
        freeze: parts that are not trained.
        peak_tflops: dense bf16 peak of the device; None when it is not known.
        compile: whether the model's layers are compiled, as a run decides it.
        plan: also ask the planner for the memory of each case.
    """

    preset: str
    resolution: int
    device: torch.device
    objects: int
    warmup: int
    steps: int
    freeze: tuple[Part, ...]
    peak_tflops: float | None
    compile: Compile = "auto"
    plan: bool = False

    def config(self, case: Case) -> TrainingConfig:
        """Return the run's settings for one case."""
        return TrainingConfig(
            scratch=ScratchConfig(
                enable_segmentation=case.task == "segmentation",
                resolution=self.resolution,
                train_batch_size=case.images,
                precision="bf16",
            ),
            model=ModelConfig(uri=f"preset:{self.preset}", freeze=self.freeze),
            runtime=RuntimeConfig(compile=self.compile),
        )


def peak_by_name(name: str) -> float | None:
    """Return the dense bf16 peak in TFLOP/s of the device called `name`; None when the table does not know it."""
    words = set(re.split(r"[\s-]+", name.upper()))
    if words & OTHER_DEVICES:
        return None
    return next((peak for wanted, peak in PEAK_TFLOPS if wanted <= words), None)
