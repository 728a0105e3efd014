"""What a run needs besides its data: a readable model, memory, and room for its checkpoints.

Whoever checks for workers on other machines looks at what is the same there: a Job without an accelerator says nothing
about the devices that will train. For a preset in front of a bucket that takes no torch, whose import is most of the
time of a small check; so the modules that need it are loaded where they are used.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ft_api.errors import StorageDenied
from sam3ft_api.training import CheckpointConfig, TrainingConfig
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.dataset import open_dataset
from sam3ft_trainer.model.preset_sizes import PRESET_SCHEME, preset_resolution
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.objects import READ_OUTAGE_S, with_patience
from sam3ft_trainer.store.uri import open_store, parse_address

if TYPE_CHECKING:
    from sam3ft_trainer.model.cost import MemoryPlan

GIB = 1 << 30
SPARE_COMMITS = 1
"""A new commit is written before an old one is deleted."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found.

    Attributes:
        model: where the weights come from, with the account of keys.
        device: cpu or cuda; None for workers on other machines, as the next four.
        micro_batch: images per forward pass.
        checkpointed: parts recomputed in backward.
        memory_bytes: the plan's need on the device.
        memory_budget_bytes: what may be used.
        commit_bytes: size of one commit; None where nothing asks for it.
        disk_bytes: what checkpoints and export need at most, in the folders they go to; 0 for a bucket.
        disk_free_bytes: what is free there; None for a bucket.
    """

    model: str
    device: str | None = None
    micro_batch: int | None = None
    checkpointed: tuple[str, ...] | None = None
    memory_bytes: int | None = None
    memory_budget_bytes: int | None = None
    commit_bytes: int | None = None
    disk_bytes: int = 0
    disk_free_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the account for people."""
        lines = [f"model  {self.model}"]
        if self.memory_bytes is None or self.memory_budget_bytes is None:
            lines.append("memory is judged by the workers, on the devices that they have")
        else:
            recomputed = ", ".join(self.checkpointed or ()) or "nothing"
            needed, budget = self.memory_bytes / GIB, self.memory_budget_bytes / GIB
            lines += [
                f"memory {needed:.2f} of {budget:.2f} GiB on the {self.device}",
                f"       {self.micro_batch} images per pass, recomputing {recomputed}",
            ]
        if self.disk_free_bytes is not None and self.commit_bytes is not None:
            lines.append(
                f"disk   {self.disk_bytes / GIB:.2f} of {self.disk_free_bytes / GIB:.2f} GiB free "
                f"(a commit has {self.commit_bytes / GIB:.2f})"
            )
        return lines


def examine(config: TrainingConfig, *, processes: int, access: DataAccess | None = None) -> Preflight:
    """Look at model, memory and disk of this machine, which will train; nothing is written, no weight is loaded.

    Args:
        config: the run's settings.
        processes: that will share this machine and the work.
        access: as for `open_dataset`.

    Raises:
        ModelUnusable: keys are missing, or the folder is of another kind.
        DeviceOutOfMemory: a step does not fit, whatever is recomputed.
        StorageDenied: the disk has less room than the run needs, or a folder cannot be written.
    """
    from sam3ft_trainer.run.machine import select_device  # noqa: PLC0415 - torch, as the two below
    from sam3ft_trainer.run.memory import lay_out_memory  # noqa: PLC0415
    from sam3ft_trainer.run.model_place import model_headers  # noqa: PLC0415

    with model_headers(config.model.uri, config, os.environ) as place:
        description, architecture = place.inspect(config)
    device = select_device(config.runtime.device, local_rank=0)
    train = open_dataset(config, "train", access=access)
    layout = lay_out_memory(config, architecture, train, device=device, world_size=processes, processes_here=processes)
    needed, free = _disk(config, layout.plan)
    return Preflight(
        model=description,
        device=device.type,
        micro_batch=layout.micro_batch,
        checkpointed=layout.checkpointed,
        memory_bytes=layout.plan.total,
        memory_budget_bytes=layout.budget,
        commit_bytes=layout.plan.commit,
        disk_bytes=needed,
        disk_free_bytes=free,
    )


def examine_for_others(config: TrainingConfig, *, access: DataAccess | None = None) -> Preflight:
    """Look at the model, and at the disk where checkpoints go to a folder, for workers on other machines.

    Device and memory of this machine count for nothing: each worker lays out its own.

    Args:
        config: the run's settings.
        access: as for `open_dataset`.

    Raises:
        InvalidConfig: there is no such preset.
        ModelUnusable, StorageDenied: as `examine`.
    """
    uri = config.model.uri
    writes_folder = _folder_of(config) is not None
    if uri.startswith(PRESET_SCHEME) and not writes_folder:
        preset_resolution(uri.removeprefix(PRESET_SCHEME))
        return Preflight(model=f"{uri}, random weights")
    from sam3ft_trainer.run.model_place import model_headers  # noqa: PLC0415 - torch

    with model_headers(uri, config, os.environ) as place:
        description, architecture = place.inspect(config)
    if not writes_folder:
        return Preflight(model=description)
    from sam3ft_trainer.run.memory import trace_alone  # noqa: PLC0415 - torch

    plan = trace_alone(config, architecture, open_dataset(config, "train", access=access))
    needed, free = _disk(config, plan)
    return Preflight(model=description, commit_bytes=plan.commit, disk_bytes=needed, disk_free_bytes=free)


def reach_stores(config: TrainingConfig, access: Access) -> None:
    """Ask the buckets of checkpoint and export for a list, so that wrong settings end a run before it starts.

    Args:
        config: names the addresses; folders are not asked.
        access: of the run.

    Raises:
        InvalidConfig: the profile refuses the endpoint, or credentials are incomplete.
        StorageDenied: access is refused, or there is no such bucket.
        StorageUnavailable: no answer for two minutes, or for the run's outage budget where that is less.
    """
    outage_s = min(config.runtime.outage_s, READ_OUTAGE_S)
    for address in filter(None, (config.checkpoint.uri, config.export.uri)):
        if parse_address(address).scheme != "file":
            with_patience(lambda: open_store(address, access=access).list_objects("log"), outage_s=outage_s)  # noqa: B023 - called at once


def most_commits(checkpoint: CheckpointConfig) -> int:
    """Return how many commits lie in the store at the same time, at most."""
    return checkpoint.keep_last + checkpoint.keep_best + SPARE_COMMITS


def _folder_of(config: TrainingConfig) -> Path | None:
    """Return the folder that checkpoints go to; None for a bucket, or where nothing is kept."""
    address = config.checkpoint.uri
    if address is None or parse_address(address).scheme != "file":
        return None
    return Path(parse_address(address).path)


def _disk(config: TrainingConfig, plan: "MemoryPlan") -> tuple[int, int | None]:
    """Return bytes needed and free where checkpoints go; buckets are not asked for their room.

    Raises:
        StorageDenied: there is less than that.
    """
    folder = _folder_of(config)
    if folder is None:
        return 0, None
    kept, commit_bytes = most_commits(config.checkpoint), plan.commit
    needed = kept * commit_bytes + (plan.weights if config.export.uri else 0)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageDenied(
            f"{folder} has {free / GIB:.2f} GiB free, and {kept} commits of {commit_bytes / GIB:.2f} GiB and the "
            f"export need {needed / GIB:.2f}; lower checkpoint.keepLast, free space, or name another checkpoint.uri"
        )
    return needed, free
