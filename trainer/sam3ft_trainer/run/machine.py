"""This process on this machine: its device, its threads, its determinism."""

import hashlib
import os

import torch

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import Precision, RuntimeConfig
from sam3ft_trainer.model.allocator import map_large_blocks


def select_device(wanted: str, *, local_rank: int) -> torch.device:
    """Return the device of this process.

    Args:
        wanted: auto, cpu or cuda; auto takes CUDA when there is a usable device.
        local_rank: number of the process on this node, picks the CUDA device.

    Raises:
        InvalidConfig: CUDA is asked for and absent, or there are fewer devices than processes.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise InvalidConfig(
            "runtime.device is cuda, and torch finds no usable CUDA device; use auto or cpu, or check the driver"
        )
    if wanted == "cpu" or not has_cuda:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise InvalidConfig(
            f"process {local_rank + 1} on this node has no CUDA device: torch sees {torch.cuda.device_count()}; "
            "start no more processes than devices"
        )
    return torch.device("cuda", local_rank)


def choose_threads(wanted: int | None, committed: int | None, *, processes_on_node: int) -> int:
    """Return the CPU threads of this process: the commit's, else the user's, else an equal share of the cores.

    The number of threads changes the order of sums on the CPU, so a resumed run keeps the one it began with.
    """
    if committed is not None:
        return committed
    cores = len(os.sched_getaffinity(0))
    return wanted or max(1, cores // processes_on_node)


def processes_here() -> int:
    """Return the worker processes of this round on this node, as torchrun's variables tell; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def settle(device: torch.device, runtime: RuntimeConfig, *, precision: Precision, committed_threads: int | None) -> int:
    """Set threads, determinism and, on the CPU, the allocator of this process; return the number of threads in force.

    On CUDA, TF32 serves the matrix products that autocast leaves in float32, and is off where `fp32` was asked for.
    """
    threads = choose_threads(runtime.threads, committed_threads, processes_on_node=processes_here())
    torch.set_num_threads(threads)
    if device.type == "cpu":
        map_large_blocks()
        torch.use_deterministic_algorithms(mode=True)
        # Filling fresh memory would show reads of uninitialised values; here it costs a tenth of a step for nothing.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    else:
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return threads


def reseed(seed: int, step: int, first_index: int) -> None:
    """Seed dropout for one micro-batch from what it holds, not from what ran before it on this process.

    Args:
        seed: the run's seed.
        step: optimizer step the micro-batch belongs to.
        first_index: global position of its first image in the epoch-concatenated order.
    """
    digest = hashlib.blake2b(f"dropout/{seed}/{step}/{first_index}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest) >> 1)


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory a process may still take: of the device, or of the host without one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # noqa: PLC0415 - only runs on the CPU ask; the GPU benchmark runs where it is not installed

    return int(psutil.virtual_memory().available)
