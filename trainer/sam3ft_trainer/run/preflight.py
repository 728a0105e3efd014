"""What a run needs besides its data: a readable model, memory, and room for its checkpoints."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam3ft_api.errors import StorageDenied
from sam3ft_api.training import CheckpointConfig, TrainingConfig
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.dataset import open_dataset
from sam3ft_trainer.run.machine import select_device
from sam3ft_trainer.run.memory import MemoryLayout, lay_out_memory
from sam3ft_trainer.run.model_place import model_headers
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.objects import with_patience
from sam3ft_trainer.store.reading import READ_OUTAGE_S
from sam3ft_trainer.store.uri import open_store, parse_address

GIB = 1 << 30
SPARE_COMMITS = 1
"""A new commit is written before an old one is deleted."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found.

    Attributes:
        model: where the weights come from, with the account of keys.
        device: cpu or cuda.
        micro_batch: images per forward pass.
        checkpointed: parts recomputed in backward.
        memory_bytes: the plan's need on the device.
        memory_budget_bytes: what may be used.
        commit_bytes: size of one commit.
        disk_bytes: what checkpoints and export need at most, in the folders they go to; 0 for a bucket.
        disk_free_bytes: what is free there; None for a bucket.
    """

    model: str
    device: str
    micro_batch: int
    checkpointed: tuple[str, ...]
    memory_bytes: int
    memory_budget_bytes: int
    commit_bytes: int
    disk_bytes: int
    disk_free_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the account for people."""
        recomputed = ", ".join(self.checkpointed) or "nothing"
        lines = [
            f"model  {self.model}",
            f"memory {self.memory_bytes / GIB:.2f} of {self.memory_budget_bytes / GIB:.2f} GiB on the {self.device}",
            f"       {self.micro_batch} images per pass, recomputing {recomputed}",
        ]
        if self.disk_free_bytes is not None:
            lines.append(
                f"disk   {self.disk_bytes / GIB:.2f} of {self.disk_free_bytes / GIB:.2f} GiB free "
                f"(a commit has {self.commit_bytes / GIB:.2f})"
            )
        return lines


def examine(config: TrainingConfig, *, processes: int, access: DataAccess | None = None) -> Preflight:
    """Look at model, memory and disk; nothing is written, no weight is loaded.

    Args:
        config: the run's settings.
        processes: that will share this machine and the work.
        access: as for `open_dataset`.

    Raises:
        ModelUnusable: keys are missing, or the folder is of another kind.
        DeviceOutOfMemory: a step does not fit, whatever is recomputed.
        StorageDenied: the disk has less room than the run needs, or a folder cannot be written.
    """
    with model_headers(config.model.uri, config, os.environ) as place:
        description, architecture = place.inspect(config)
    device = select_device(config.runtime.device, local_rank=0)
    train = open_dataset(config, "train", access=access)
    layout = lay_out_memory(config, architecture, train, device=device, world_size=processes, processes_here=processes)
    needed, free = _disk(config, layout)
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


def _disk(config: TrainingConfig, layout: MemoryLayout) -> tuple[int, int | None]:
    """Return bytes needed and free where checkpoints go; buckets are not asked for their room.

    Raises:
        StorageDenied: there is less than that.
    """
    address = config.checkpoint.uri
    if address is None or parse_address(address).scheme != "file":
        return 0, None
    kept, commit_bytes = most_commits(config.checkpoint), layout.plan.commit
    needed = kept * commit_bytes + (layout.plan.weights if config.export.uri else 0)
    folder = Path(parse_address(address).path)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageDenied(
            f"{folder} has {free / GIB:.2f} GiB free, and {kept} commits of {commit_bytes / GIB:.2f} GiB and the "
            f"export need {needed / GIB:.2f}; lower checkpoint.keepLast, free space, or name another checkpoint.uri"
        )
    return needed, free
