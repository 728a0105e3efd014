"""Environment variables of workers, beyond torchrun's own; pure but for `usable_cores`."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.messages import Round
from sam3ft_api.worker import (
    ENV_ATTEMPT,
    ENV_CONFIG,
    ENV_EVICTION_GRACE_S,
    ENV_FLAG_FILE,
    ENV_MICRO_BATCH_MAX,
    ENV_RESULT_FILE,
    ENV_TRAINING_FILE,
    ENV_WORK_DIR,
)
from sam3ft_trainer.run.environment import CPU_ENVIRONMENT
from sam3ft_trainer.run.launcher.child import ENV_LOG_FILE
from sam3ft_trainer.run.launcher.files import WorkFolder

ROLE = "trainer"
"""Name of the workers in torch's variables and events."""
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def worker_environment(
    *,
    config: Path,
    folder: WorkFolder,
    rank: int,
    attempt: int,
    micro_batch_max: int | None,
    eviction_grace_s: float | None = None,
) -> dict[str, str]:
    """Return what the worker of one rank needs to know."""
    environment = {
        ENV_CONFIG: str(config),
        ENV_WORK_DIR: str(folder.root),
        ENV_FLAG_FILE: str(folder.flag_file),
        ENV_RESULT_FILE: str(folder.result_file(rank)),
        ENV_TRAINING_FILE: str(folder.training_file(rank)),
        ENV_LOG_FILE: str(folder.log_file(rank)),
        ENV_ATTEMPT: str(attempt),
    }
    if micro_batch_max is not None:
        environment[ENV_MICRO_BATCH_MAX] = str(micro_batch_max)
    if eviction_grace_s is not None:
        environment[ENV_EVICTION_GRACE_S] = f"{eviction_grace_s:g}"
    return environment


def torchrun_environment(
    round_: Round, place: int, *, processes: int, run_id: str, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that torch's agent gives the worker at one place of this node.

    Args:
        round_: the round.
        place: local rank.
        processes: workers on this node.
        run_id: TORCHELASTIC_RUN_ID.
        environ: the launcher's environment, in which a choice about NCCL's error handling may stand.
    """
    rank, world = str(round_.first_rank + place), str(round_.world_size)
    return {
        "RANK": rank,
        "LOCAL_RANK": str(place),
        "GROUP_RANK": str(round_.node_rank),
        "ROLE_RANK": rank,
        "ROLE_NAME": ROLE,
        "LOCAL_WORLD_SIZE": str(processes),
        "WORLD_SIZE": world,
        "GROUP_WORLD_SIZE": str(len(round_.members)),
        "ROLE_WORLD_SIZE": world,
        "MASTER_ADDR": round_.master_addr,
        "MASTER_PORT": str(round_.master_port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }


def device_environment(*, on_cpu: bool, threads: int) -> dict[str, str]:
    """Return what must stand in the environment before a worker imports torch.

    Args:
        on_cpu: the workers compute on the CPU, where runs repeat bit for bit.
        threads: CPU threads of each worker.
    """
    environment = {"OMP_NUM_THREADS": str(threads)}
    return environment | CPU_ENVIRONMENT if on_cpu else environment


def threads_per_worker(wanted: int | None, *, inherited: str | None, processes: int, cores: int) -> int:
    """Return the CPU threads of each worker: the setting, else OMP_NUM_THREADS, else a share of the cores.

    Args:
        wanted: `runtime.threads`, None to share.
        inherited: the launcher's own OMP_NUM_THREADS; None, or no positive number, when it has none.
        processes: workers on this node.
        cores: cores that this node's workers may use.
    """
    if wanted is not None:
        return wanted
    if inherited is not None and inherited.isdecimal() and int(inherited) > 0:
        return int(inherited)
    return max(1, cores // processes)


def inherited_micro_batch_max(environ: Mapping[str, str]) -> int | None:
    """Return the bound of the micro-batch that stands in the launcher's environment; None without one.

    Raises:
        InvalidConfig: it is no positive whole number.
    """
    text = environ.get(ENV_MICRO_BATCH_MAX)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InvalidConfig(
            f"the environment variable {ENV_MICRO_BATCH_MAX} is {text!r}; a whole number from 1 is needed"
        )
    return int(text)


def usable_cores() -> int:
    """Return the cores this process may use: its affinity, and the container's quota rounded up where it is lower."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return cores  # no quota: cpu.max is absent, or says "max"
