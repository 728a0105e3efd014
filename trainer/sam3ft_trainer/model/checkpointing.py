"""How the pieces of the forward are run: kept or computed again in backward, one kernel after another or compiled.

`Sam3Model.gradient_checkpointing_enable()` raises, because only its ViT and text layers know how; here every part of
the composed forward runs through `Checkpointing.run`, one layer at a time, so that at most one layer's activations
exist again during backward.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import torch
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from sam3ft_api.training import Part
from sam3ft_trainer.model.compiling import LayerCompiler

Result = TypeVar("Result")
PARTS: tuple[Part, ...] = ("vision", "text", "neck", "geometry", "encoder", "decoder", "mask")
"""All part names, in the order in which the forward runs them (text and vision are independent)."""
COMPILED_PARTS: frozenset[Part] = frozenset({"vision", "text", "geometry", "encoder", "decoder", "mask"})
"""Parts made of equal layers, or of pieces of equal size: one compiled form serves them all."""
VARYING_PARTS: frozenset[Part] = frozenset({"text", "encoder", "decoder"})
"""Parts whose sizes follow the phrases of a micro-batch; those of the others follow its images, as many in each."""


class Checkpointing:
    """Runs pieces of the forward, checkpointed when their part is named, compiled when that is asked for.

    Loss and gradients are those of the plain run: the same kernels see the same inputs, and the random state is
    restored for the second run when `random` says that numbers are drawn. Compiled pieces fuse what is rounded in
    between, so their numbers are those of the plain run closely, and their dropout draws others.
    """

    def __init__(
        self, parts: tuple[Part, ...] = (), *, random: bool = True, compiler: LayerCompiler | None = None
    ) -> None:
        """Choose how pieces are run.

        Args:
            parts: those to recompute.
            random: False saves storing the generators' state where nothing is drawn.
            compiler: compiles what belongs to `COMPILED_PARTS`, where gradients are computed; None compiles nothing.
        """
        self.parts = frozenset(parts)
        self.random = random
        self.compiler = compiler

    def scope(self, part: Part) -> AbstractContextManager[object]:
        """Mark what runs inside as work of `part`: profiles show it as `sam3ft.PART`, the planner accounts by it."""
        return record_function(f"sam3ft.{part}")

    def run(self, part: Part, function: Callable[..., Result], *args: object) -> Result:
        """Return `function(*args)`, which must not change its arguments; tensors may be anywhere among them."""
        if not torch.is_grad_enabled():
            return function(*args)
        if self.compiler is not None and part in COMPILED_PARTS:
            function = partial(self.compiler.run, function, varies=part in VARYING_PARTS)
        if part not in self.parts:
            return function(*args)
        result: Result = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=self.random)
        return result
