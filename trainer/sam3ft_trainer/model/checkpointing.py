"""Activation checkpointing by part: what a part computes in forward is dropped and computed again in backward.

`Sam3Model.gradient_checkpointing_enable()` raises, because only its ViT and text layers know how; here every part of
the composed forward runs through `Checkpointing.run`, one layer at a time, so that at most one layer's activations
exist again during backward.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from sam3ft_api.training import Part

Result = TypeVar("Result")
PARTS: tuple[Part, ...] = ("vision", "text", "neck", "geometry", "encoder", "decoder", "mask")
"""All part names, in the order in which the forward runs them (text and vision are independent)."""


class Checkpointing:
    """Runs pieces of the forward, checkpointed when their part is named.

    Loss and gradients are those of the plain run: the same kernels see the same inputs, and the random state is
    restored for the second run when `random` says that numbers are drawn.
    """

    def __init__(self, parts: tuple[Part, ...] = (), *, random: bool = True) -> None:
        """Name the parts to recompute; `random=False` saves storing the generators' state where nothing is drawn."""
        self.parts = frozenset(parts)
        self.random = random

    def scope(self, part: Part) -> AbstractContextManager[object]:
        """Mark what runs inside as work of `part`: profiles show it as `sam3ft.PART`, the planner accounts by it."""
        return record_function(f"sam3ft.{part}")

    def run(self, part: Part, function: Callable[..., Result], *args: object) -> Result:
        """Return `function(*args)`, which must not change its arguments; tensors may be anywhere among them."""
        if part not in self.parts or not torch.is_grad_enabled():
            return function(*args)
        result: Result = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=self.random)
        return result
