"""Memory of batches, used again: the fresh pages of a batch cost a tenth of what decoding its images does."""

import weakref
from collections import deque
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class BatchMemory:
    """Hands out uint8 tensors whose memory comes back by itself once no tensor, view or array refers to it.

    Holds as many blocks as were in use at one time. Safe to use from several threads. A block that is out when the
    object goes stays valid.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._free: deque[npt.NDArray[np.uint8]] = deque()

    def take(self, *shape: int) -> Tensor:
        """Return a contiguous uint8 tensor of this shape; what is in it is left from before."""
        num_bytes = prod(shape)
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(0, dtype=np.uint8)
        if len(block) < num_bytes:
            block = np.empty(num_bytes, dtype=np.uint8)
        # The tensor's storage holds this array, and nothing else does: it goes when the last user of the storage goes.
        lent = block[:num_bytes]
        weakref.finalize(lent, self._free.append, block).atexit = False
        return torch.from_numpy(lent).view(shape)
