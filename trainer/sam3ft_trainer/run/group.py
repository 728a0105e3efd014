"""The ranks of one round as one small object: sums, agreement and gathering, with or without torch.distributed.

Two process groups are kept apart. The control group (gloo, CPU) carries counts, flags and results ahead of and
between steps, so that nothing on it ever waits for the accelerator; the default group (nccl or gloo) carries gradients.
"""

import datetime as dt
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket  # DDP compares the annotation of its hook with this class

from sam3ft_api.errors import PeerLost

_CONNECTION_FAILED = re.compile(
    r"gloo/transport|Connection (closed|reset) by peer|ncclRemoteError|ncclSystemError|NCCL communicator was aborted"
)
TIMEOUT = dt.timedelta(minutes=30)
"""Only the last resort: a silent peer is noticed by launcher and coordinator within seconds."""


class Group(Protocol):
    """What the loop asks of its peers. Every method is a collective: all ranks call it in the same order."""

    rank: int
    world_size: int

    def sum(self, values: list[float]) -> list[float]:
        """Return the element-wise sum over ranks of float64 `values`; lengths must agree."""
        ...

    def gather(self, value: Any) -> list[Any] | None:
        """Collect one JSON value of each rank on rank 0, in rank order; None on the others."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's JSON value on every rank."""
        ...

    def broadcast_tensor(self, tensor: Tensor, source: int) -> None:
        """Fill a contiguous tensor, on any device, with that of rank `source`, bit for bit."""
        ...

    def barrier(self) -> None:
        """Return once every rank has called it."""
        ...

    def close(self) -> None:
        """Leave; safe to call twice."""
        ...


class Solo:
    """A group of one: every collective is the identity and torch.distributed is never started."""

    rank = 0
    world_size = 1

    def sum(self, values: list[float]) -> list[float]:
        """Return `values`."""
        return list(values)

    def gather(self, value: Any) -> list[Any] | None:
        """Return `[value]`."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Return `value`."""
        return value

    def broadcast_tensor(self, tensor: Tensor, source: int) -> None:
        """Leave the tensor as it is."""

    def barrier(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Do nothing."""


class TorchGroup:
    """Ranks joined by torch.distributed, as torchrun's environment variables describe them.

    Collectives that fail because a peer went away raise `PeerLost` (23), which the launcher answers by re-forming.
    """

    def __init__(self, device: torch.device) -> None:
        """Join the group; blocks until all ranks have joined or the time-out passes."""
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=TIMEOUT)
            control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        except RuntimeError as error:
            raise PeerLost(f"the ranks could not meet: {error}") from error
        assert isinstance(control, dist.ProcessGroup)  # noqa: S101 - every rank is a member; narrows the type
        self._control = control
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def sum(self, values: list[float]) -> list[float]:
        """Reduce on the control group in float64, one message."""
        tensor = torch.tensor(values, dtype=torch.float64)
        self._guard(lambda: dist.all_reduce(tensor, group=self._control))
        return [float(value) for value in tensor.tolist()]

    def gather(self, value: Any) -> list[Any] | None:
        """Gather JSON bytes padded to the longest; no pickle on the wire."""
        payload = json.dumps(value).encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        self._guard(
            lambda: dist.all_gather(lengths, torch.tensor([len(payload)], dtype=torch.int64), group=self._control)
        )
        longest = max(int(length) for length in lengths)
        mine = torch.zeros(longest, dtype=torch.uint8)
        mine[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        slots = [torch.empty_like(mine) for _ in range(self.world_size)] if self.rank == 0 else None
        self._guard(lambda: dist.gather(mine, slots, dst=0, group=self._control))
        if slots is None:
            return None
        return [_decode(slot, int(length)) for slot, length in zip(slots, lengths, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """Send rank 0's JSON bytes: their length first, then the bytes."""
        payload = json.dumps(value).encode() if self.rank == 0 else b""
        length = torch.tensor([len(payload)], dtype=torch.int64)
        self._guard(lambda: dist.broadcast(length, src=0, group=self._control))
        data = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == 0:
            data.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        self._guard(lambda: dist.broadcast(data, src=0, group=self._control))
        return _decode(data, int(length))

    def broadcast_tensor(self, tensor: Tensor, source: int) -> None:
        """Broadcast on the default group, between devices where the tensor lies on one."""
        self._guard(lambda: dist.broadcast(tensor, src=source))

    def barrier(self) -> None:
        """Synchronise on the control group."""
        self._guard(lambda: dist.barrier(group=self._control))

    def close(self) -> None:
        """Destroy the process groups."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @staticmethod
    def _guard(collective: Any) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise PeerLost(f"a collective failed, a peer is gone: {str(error).splitlines()[0]}") from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the group."""
        self.close()


@contextmanager
def peers_at_work(what: str) -> Iterator[None]:
    """Let a failed collective within a block that torch runs by itself, as DDP in backward, be a lost peer.

    Args:
        what: is done there, for the message.

    Raises:
        PeerLost: the connection to a peer failed. Every other error passes as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_connection_failure(error):
            raise
        raise PeerLost(f"{what} failed, a peer is gone: {str(error).splitlines()[0]}") from error


def is_connection_failure(error: RuntimeError) -> bool:
    """Say whether an error is gloo's or NCCL's word for a peer that is gone; a device without memory is none."""
    text = str(error)
    if "out of memory" in text.lower():
        return False
    return (
        isinstance(error, dist.DistBackendError | dist.DistNetworkError) or _CONNECTION_FAILED.search(text) is not None
    )


def join_group(device: torch.device) -> Group:
    """Return the group described by torchrun's variables: `Solo` for a world of one or without any variables."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Solo()
    return TorchGroup(device)


def sum_gradients(group: dist.ProcessGroup, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Communication hook of DDP that sums: the loss is already normalised over the global batch."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None  # noqa: S101 - async_op always gives a handle; narrows the type
    return work.get_future().then(lambda future: future.value()[0])


def _decode(data: Tensor, length: int) -> Any:
    return json.loads(bytes(data[:length].tolist()))
