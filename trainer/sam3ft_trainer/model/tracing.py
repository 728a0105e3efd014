"""Running a training step on shapes alone: which bytes live when, and how many FLOPs each part takes.

The composed forward and its backward run on the meta device, where tensors have shapes and no memory. A dispatch mode
sees every operation: it follows storages from birth to death and counts matrix products and convolutions. What a real
device does differently is imitated: its attention kernels, and the casts of autocast.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sam3ft_api.training import Part
from sam3ft_trainer.model.attention import CHUNK_ELEMENTS, is_fused, needs_pieces
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.shape_memo import ShapeMemo

Result = TypeVar("Result")
OTHER = "other"
"""Account of what belongs to no part: inputs, losses."""


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Accounts for the operations within its context.

    Attributes:
        live: bytes of all storages alive that are not of the state.
        peak: the largest value of `live` so far.
        recent_peak: the same since `restart_peak`.
        forward_flops: by part.
        backward_flops: of gradients, without what checkpointing computes again.
        recomputed_flops: of checkpointed pieces, run again in backward.
    """

    def __init__(self) -> None:
        """Start with empty accounts."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.recent_peak = 0
        self.forward_flops: dict[str, int] = defaultdict(int)
        self.backward_flops = 0
        self.recomputed_flops = 0
        self.part: str = OTHER
        self.in_backward = False
        self.recomputing = False
        self._storages: dict[int, tuple[Any, int, str]] = {}
        self._shapes = ShapeMemo()

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Take these tensors as part of the state: they weigh nothing here."""
        for tensor in tensors:
            self._enter(tensor, weight=0)

    def restart_peak(self) -> None:
        """Let `recent_peak` start from what is alive now."""
        self.recent_peak = self.live

    def held_by_part(self) -> dict[str, int]:
        """Return the live bytes of each part."""
        held: dict[str, int] = defaultdict(int)
        for _, nbytes, part in self._storages.values():
            held[part] += nbytes
        return {part: nbytes for part, nbytes in held.items() if nbytes}

    def add_flops(self, flops: int) -> None:
        """Enter FLOPs under the account in force."""
        if self.recomputing:
            self.recomputed_flops += flops
        elif self.in_backward:
            self.backward_flops += flops
        else:
            self.forward_flops[self.part] += flops

    def _enter(self, tensor: Tensor, *, weight: int = 1) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - the storage's identity; several tensors share one
        if key in self._storages:
            return
        nbytes = storage.nbytes() * weight
        self._storages[key] = (weakref.ref(storage, partial(self._leave, key)), nbytes, self.part)
        self.live += nbytes
        self.recent_peak = max(self.recent_peak, self.live)
        self.peak = max(self.peak, self.live)

    def _leave(self, key: int, _: object) -> None:
        self.live -= self._storages.pop(key)[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and account for its result."""
        result = self._shapes.run(func, args, kwargs or {})
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - the registry's key
        if formula is not None:
            self.add_flops(int(formula(*args, **(kwargs or {}), out_val=result)))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        return result


class TracingCheckpointing(Checkpointing):
    """Checkpointing that tells the trace which part is running, and what is run a second time."""

    def __init__(
        self,
        trace: Trace,
        parts: tuple[Part, ...],
        autocast: Callable[[], AbstractContextManager[object]],
        *,
        random: bool,
    ) -> None:
        """Account to `trace`; pieces are repeated under `autocast`, which has ended by then."""
        super().__init__(parts, random=random)
        self._trace = trace
        self._autocast = autocast

    @contextmanager
    def scope(self, part: Part) -> Iterator[None]:
        """Account what runs inside to `part`."""
        before, self._trace.part = self._trace.part, part
        try:
            yield
        finally:
            self._trace.part = before

    def run(self, part: Part, function: Callable[..., Result], *args: object) -> Result:
        """Run the piece; a run during backward is a repetition."""
        return super().run(part, partial(self._observed, function), *args)

    def _observed(self, function: Callable[..., Result], *args: object) -> Result:
        if not self._trace.in_backward:
            return function(*args)
        self._trace.recomputing = True
        try:
            with self._autocast():
                return function(*args)
        finally:
            self._trace.recomputing = False


class _AttentionShape(torch.autograd.Function):
    """Attention on shapes: what it keeps for backward, and what exists while it runs."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, trace: Trace, buffers: int
    ) -> Tensor:
        _run_buffers(query, key, buffers // 2)
        trace.add_flops(4 * query.numel() * key.shape[-2])
        # A fused kernel keeps its output, in the layout of the projections; the joined pieces are copied into it.
        output = query.new_empty(query.shape) if buffers else torch.empty_like(query)
        ctx.save_for_backward(query, key, value, mask, None if buffers else output)
        ctx.trace, ctx.buffers = trace, buffers
        return output

    @staticmethod
    def backward(ctx: Any, *_grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, _ = ctx.saved_tensors
        trace: Trace = ctx.trace
        _run_buffers(query, key, ctx.buffers)
        trace.add_flops(8 * query.numel() * key.shape[-2])
        grad_mask = torch.empty_like(mask) if ctx.needs_input_grad[3] else None
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), grad_mask, None, None


def _run_buffers(query: Tensor, key: Tensor, count: int) -> None:
    """Let `count` pieces of attention weights exist for a moment."""
    elements = min(CHUNK_ELEMENTS, query[..., 0].numel() * key.shape[-2])
    del [query.new_empty(elements) for _ in range(count)][:]


class ShapeKernel:
    """Attention of a device, on shapes: fused, in pieces, or with all weights as torch's plain formula has them."""

    def __init__(self, trace: Trace, device_type: str) -> None:
        """Imitate the kernels of `device_type` ("cpu" or "cuda")."""
        self._trace = trace
        self._device_type = device_type

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, /) -> Tensor:
        """Return the output's shape, and leave the kernel's marks in the trace."""
        if is_fused(self._device_type, mask, dropout):
            buffers = 0
        elif needs_pieces(query, key):
            buffers = 6 if dropout else 4
        else:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        output: Tensor = _AttentionShape.apply(query, key, value, mask, self._trace, buffers)
        return output


_LOW_PRECISION = {
    F.linear,
    F.conv2d,
    F.conv_transpose2d,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    F.scaled_dot_product_attention,
}
_FULL_PRECISION = {F.layer_norm, F.group_norm, F.softmax, torch.log, torch.log2, Tensor.sum, torch.sum}
"""The operations of the forward that autocast runs in low and in full precision (torch.amp's operator lists)."""


class ShapeAutocast(TorchFunctionMode):
    """Autocast on shapes: casts of inputs, and of each weight once, kept until the region ends."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Cast to `dtype` where autocast would."""
        super().__init__()
        self._dtype = dtype
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` with its inputs cast."""
        if func in _LOW_PRECISION:
            cast: Callable[[Any], Any] = self._lower
        elif func in _FULL_PRECISION:
            cast = self._raise
        else:
            return func(*args, **(kwargs or {}))
        return func(*map(cast, args), **{name: cast(value) for name, value in (kwargs or {}).items()})

    def _lower(self, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.dtype == torch.float32):
            return value
        if not isinstance(value, torch.nn.Parameter):
            return value.to(self._dtype)
        if id(value) not in self._weights:
            self._weights[id(value)] = value.to(self._dtype)
        return self._weights[id(value)]

    def _raise(self, value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype == self._dtype else value
