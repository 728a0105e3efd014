"""Exponential moving average of the trained weights, kept on the host.

    average <- d * average + (1 - d) * weight,    d = min(decay, (1 + n) / (10 + n)) after n earlier updates

The ramp lets the average forget the initial weights in short runs, where 1 / (1 - decay) steps may be more than the
whole run (as `tf.train.ExponentialMovingAverage` has it with `num_updates`).
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def ramped_decay(decay: float, updates: int) -> float:
    """Return the decay of an update after `updates` earlier ones."""
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """Averages of the trainable parameters, on the host; device memory holds no second copy of the weights.

    On the CPU an update is done when `update` returns. With CUDA it costs the device one copy to pinned memory on a
    stream of its own, and the arithmetic is done by one thread while the next step runs; the host holds the averages
    and one pinned copy. Results do not depend on that timing.
    """

    def __init__(self, sam3: nn.Module, decay: float, *, optimizer: Optimizer | None = None) -> None:
        """Start with the current weights.

        Args:
            sam3: the model; parameters that are trainable now are averaged.
            decay: upper bound of the decay, within 0..1.
            optimizer: the one that changes the weights. With it only its `step` waits for the copy to the host;
                without it everything that is queued after `update` does.
        """
        self.decay = decay
        self._num_updates = torch.zeros((), dtype=torch.int64)
        self._averages = {name: _to_host(parameter) for name, parameter in _trained(sam3)}
        self._staging: dict[str, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._orders_at_step = optimizer is not None
        if optimizer is not None:
            optimizer.register_step_pre_hook(lambda *_: self._order_after_copy())

    def update(self, sam3: nn.Module) -> None:
        """Move the averages towards the weights that `sam3` has at this point of the device's queue."""
        self._wait()
        decay = ramped_decay(self.decay, int(self._num_updates))
        self._num_updates += 1
        weights = dict(_trained(sam3))
        if any(weight.is_cuda for weight in weights.values()):
            self._update_behind(weights, decay)
        else:
            _average(self._averages, weights, decay)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state by name: the averages under their parameters' names, and `num_updates`.

        These are the live tensors: copying saved values into them restores the state exactly. Waits for an update
        under way.
        """
        self._wait()
        return {**self._averages, "num_updates": self._num_updates}

    @contextmanager
    def swapped(self, sam3: nn.Module) -> Iterator[None]:
        """Put the averages in place of the weights of `sam3` for a while; leaving restores the weights bit by bit."""
        self._wait()
        weights = dict(_trained(sam3))
        kept = {name: _to_host(weight) for name, weight in weights.items()}
        _assign(weights, self._averages)
        try:
            yield
        finally:
            _assign(weights, kept)

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _update_behind(self, weights: dict[str, Tensor], decay: float) -> None:
        """Queue the copy to pinned memory, and the arithmetic behind it on the thread."""
        if self._stream is None or self._thread is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no annotation there
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="ema")
            self._staging = {
                name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                for name, value in self._averages.items()
            }
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for name, staged in self._staging.items():
                staged.copy_(weights[name].detach(), non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no annotation there
            copied.record()
        if not self._orders_at_step:
            self._order_after_copy()

        def average() -> None:
            copied.synchronize()
            _average(self._averages, self._staging, decay)

        self._pending = self._thread.submit(average)

    def _order_after_copy(self) -> None:
        """Let the device change no weight before the copy has read it."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


def _trained(sam3: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, parameter) for name, parameter in sam3.named_parameters() if parameter.requires_grad)


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


@torch.no_grad()
def _average(averages: dict[str, Tensor], weights: dict[str, Tensor], decay: float) -> None:
    for name, average in averages.items():
        average.lerp_(weights[name], 1 - decay)


@torch.no_grad()
def _assign(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])
