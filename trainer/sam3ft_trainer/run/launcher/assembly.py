"""Makes the agent of a node from the launcher's options."""

import os
import sys
from collections.abc import Callable

from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import Progress
from sam3ft_trainer.run.launcher.agent import NodeAgent, free_port
from sam3ft_trainer.run.launcher.conductor import Conductor
from sam3ft_trainer.run.launcher.device import runs_on_cpu
from sam3ft_trainer.run.launcher.environment import (
    device_environment,
    inherited_micro_batch_max,
    threads_per_worker,
    usable_cores,
    worker_environment,
)
from sam3ft_trainer.run.launcher.files import WorkFolder
from sam3ft_trainer.run.launcher.follow import Speaker
from sam3ft_trainer.run.launcher.interface import network_environment
from sam3ft_trainer.run.launcher.link import Link
from sam3ft_trainer.run.launcher.options import WORKER_MODULE, Options
from sam3ft_trainer.run.launcher.rules import Rules
from sam3ft_trainer.run.launcher.spares import SPARE_MODULE, Spares, spare_command
from sam3ft_trainer.run.launcher.stop_requests import StopRequests
from sam3ft_trainer.run.launcher.workers import WorkerPlan
from sam3ft_trainer.run.micro_batch import images_per_rank

_ENV_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


def make_agent(
    options: Options,
    config: TrainingConfig,
    folder: WorkFolder,
    link: Link,
    requests: StopRequests,
    speaker: Speaker,
    *,
    read_progress: Callable[[], Progress | None],
) -> NodeAgent:
    """Return the agent of this node, ready to run on the main thread."""
    conductor = Conductor(
        Rules(
            node=options.node,
            processes=options.processes,
            budget=options.budget,
            first_micro_batch=lambda world_size: (
                config.runtime.micro_batch
                or images_per_rank(batch_size=config.scratch.train_batch_size, world_size=world_size)
            ),
            micro_batch_max=inherited_micro_batch_max(os.environ),
            min_nodes=options.min_nodes,
            eviction_grace_s=options.eviction_grace_s,
        ),
        offer=lambda: (options.address, free_port(options.address)),
    )
    command = options.command or (sys.executable, "-m", WORKER_MODULE)
    device = _device(options, config, speaker)
    plan = WorkerPlan(
        folder=folder,
        environment=_environment(options, folder, device),
        command=command,
        processes=options.processes,
        run_id=f"{config.identity.name}-{options.attempt}",
        spares=_spares(options, folder, device, speaker),
    )
    return NodeAgent(conductor, link, requests, speaker, plan=plan, read_progress=read_progress)


def _spares(options: Options, folder: WorkFolder, device: dict[str, str], speaker: Speaker) -> Spares | None:
    """Return those of the trainer in any case, of another command, which may not import torch at all, where asked."""
    if not options.command:
        command: tuple[str, ...] = (sys.executable, "-m", SPARE_MODULE, "-m", WORKER_MODULE)
    elif options.warm_spares:
        command = spare_command(options.command)
    else:
        return None
    return Spares(
        command,
        places=options.processes,
        is_warm=options.warm_spares,
        environment=device,
        logs=folder.logs,
        say=speaker.say,
    )


def _device(options: Options, config: TrainingConfig, speaker: Speaker) -> dict[str, str]:
    """Return what must stand in the environment before a worker imports torch."""
    threads = threads_per_worker(
        config.runtime.threads,
        inherited=os.environ.get("OMP_NUM_THREADS"),
        processes=options.processes,
        cores=usable_cores(),
    )
    on_cpu = runs_on_cpu(config.runtime.device, speaker.say)
    # By NVML a device is there whose driver does not start: the worker fails then, where it would train on the CPU.
    counts = {_ENV_NVML: os.environ.get(_ENV_NVML, "1")}
    return device_environment(on_cpu=on_cpu, threads=threads) | counts | network_environment(options.address)


def _environment(
    options: Options, folder: WorkFolder, device: dict[str, str]
) -> Callable[[int, int | None], dict[str, str]]:
    def environment(rank: int, micro_batch_max: int | None) -> dict[str, str]:
        return device | worker_environment(
            config=options.config,
            folder=folder,
            rank=rank,
            attempt=options.attempt,
            micro_batch_max=micro_batch_max,
            eviction_grace_s=options.eviction_grace_s,
        )

    return environment
