"""The two crossings between host and device that a step's matching needs: one down, one up, none of them blocking.

A step must not wait for the device more often than it has to. Everything that the host decides on (which query gets
which target) is therefore brought down as one vector, and the decisions go up as one vector.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Indices = npt.NDArray[np.int64]


class Download:
    """One device-to-host copy of several tensors, started at construction.

    Between construction and `arrays()` the caller may queue more work on the device: the host waits for the copy
    alone, not for that work.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Start copying `tensors`; all are converted to the dtype of the first one, and must be on one device."""
        self._shapes = [tuple(tensor.shape) for tensor in tensors]
        flat = torch.cat([tensor.detach().reshape(-1).to(tensors[0].dtype) for tensor in tensors])
        self._copied: torch.cuda.Event | None = None
        if flat.is_cuda:
            host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            host.copy_(flat, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no annotation there
            self._copied.record()
            self._device_copy = flat  # kept alive until the copy has been read
            flat = host
        self._flat = flat

    def arrays(self) -> list[npt.NDArray[Any]]:
        """Wait for the copy and return the tensors' values, in their order and shapes."""
        if self._copied is not None:
            self._copied.synchronize()
        flat = self._flat.numpy()
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]


def upload(arrays: Sequence[Indices], device: torch.device) -> list[Tensor]:
    """Copy index arrays to `device` in one transfer that the host does not wait for.

    Args:
        arrays: int64 arrays of any shapes.
        device: where the tensors shall live.

    Returns:
        int64 tensors of the same shapes and order.
    """
    flat = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))
    if device.type == "cuda":
        flat = flat.pin_memory().to(device, non_blocking=True)
    parts = torch.split(flat, [array.size for array in arrays])
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
