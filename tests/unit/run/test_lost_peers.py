"""A peer that is lost within torch's own collectives is a lost peer (23), not an internal error."""

import pytest
import torch
import torch.distributed as dist

from sam3ft_api.errors import PeerLost
from sam3ft_api.exit_codes import ExitCode
from sam3ft_trainer.run.group import peers_at_work
from sam3ft_trainer.run.worker import classify

GLOO = (
    "Got the following error when running the callback: RuntimeError: "
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:24994. This is "
    "typically caused by a remote worker crashing.\n\nAt:\n  group.py(174): <lambda>\n"
)
LOST = [
    RuntimeError(GLOO),
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:525] Read error [10.0.0.2]:9: reset"),
    RuntimeError("writev: Connection reset by peer"),
    dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited, ncclRemoteError"),
]
OTHERS = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    dist.DistBackendError("NCCL error: Failed to CUDA calloc 6291456 bytes: out of memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ValueError("Connection closed by peer"),
]


@pytest.mark.parametrize("error", LOST, ids=["gloo in backward", "gloo", "socket", "nccl"])
def test_a_connection_that_fails_in_a_collective_of_torch_is_a_lost_peer(error: RuntimeError):
    with pytest.raises(PeerLost) as caught, peers_at_work("the sum of gradients"):
        raise error

    assert ExitCode.PEER_LOST == classify(caught.value)[0]
    assert str(caught.value).startswith("the sum of gradients failed, a peer is gone: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", OTHERS, ids=["a defect", "no memory in nccl", "no memory", "not torch"])
def test_every_other_error_stays_what_it_is(error: Exception):
    with pytest.raises(type(error)) as caught, peers_at_work("the sum of gradients"):
        raise error

    assert caught.value is error
