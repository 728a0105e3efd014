"""How a run fits the memory at hand: images per forward pass, and what is recomputed in backward."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Sam3Model

from sam3ft_api.training import Part, TrainingConfig


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    micro_batch: int
    checkpointed: tuple[Part, ...]

    def summary(self) -> dict[str, Any]:
        return {"micro_batch": self.micro_batch, "checkpointed": list(self.checkpointed)}


def lay_out_memory(config: TrainingConfig, sam3: Sam3Model, *, device: torch.device, world_size: int) -> MemoryLayout:
    wanted = config.runtime.activation_checkpointing
    return MemoryLayout(config.runtime.micro_batch or 8, wanted if isinstance(wanted, tuple) else ())
