"""What stands before a run is claimed: ranks, data, weights, optimizer, and how it all fits into memory."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from sam3ft_api.errors import InvalidDataset
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.load import LoadedModel
from sam3ft_trainer.model.text import PhraseCache
from sam3ft_trainer.run import machine
from sam3ft_trainer.run.ema import Ema
from sam3ft_trainer.run.events import Reporter
from sam3ft_trainer.run.group import Group
from sam3ft_trainer.run.memory import MemoryLayout, lay_out_memory
from sam3ft_trainer.run.model_place import place_model
from sam3ft_trainer.run.optim import build_optimizer


@dataclass(frozen=True, slots=True)
class Foundation:
    """Attributes as in `Session`; `memory` says what is recomputed in backward and how many images fit.

    `access` is how the data are reached, and holds the figures of reading them.
    """

    group: Group
    device: torch.device
    reporter: Reporter
    datasets: dict[str, CocoDataset]
    loaded: LoadedModel
    phrase_cache: PhraseCache | None
    optimizer: torch.optim.AdamW
    ema: Ema | None
    memory: MemoryLayout
    access: DataAccess


def lay_foundation(
    config: TrainingConfig, *, device: torch.device, group: Group, reporter: Reporter, beat: Callable[[str], None]
) -> Foundation:
    """Read data and weights and build what is trained; nothing is written anywhere.

    Args:
        config: the run's settings.
        device: of this rank.
        group: of the round.
        reporter: of rank 0, silent elsewhere.
        beat: told while it is waited for something that may take long, so that nobody takes it for a hang.

    Raises:
        InvalidDataset, ModelUnusable, InvalidConfig, StorageDenied, DeviceOutOfMemory: as the parts say.
    """
    access = DataAccess(config, os.environ)
    datasets = open_splits(config, access)
    if cache := access.describe_cache():
        reporter.event("data_from_store", address=datasets["train"].source.address, cache=cache)
    # Before the weights: random presets and the first sums must not depend on the machine's number of cores.
    machine.settle(device, config.runtime, precision=config.scratch.precision, committed_threads=None)
    reporter.progress(state="loading", message="planning memory and loading the model", force=True)
    place = place_model(config.model.uri, config, os.environ, tell=partial(_tell_fetching, reporter, beat))
    if place.is_fresh:
        reporter.event("model_fetched", address=place.origin, folder=place.uri)
    memory = lay_out_memory(
        config,
        place.architecture(config),
        datasets["train"],
        device=device,
        world_size=group.world_size,
        processes_here=machine.processes_here(),
    )
    reporter.event("memory_planned", **memory.summary())
    loaded = place.load(config, device=device)
    frozen = freeze_parts(loaded.sam3, config.model.freeze, task=config.task, geometry_cls=config.model.geometry_cls)
    reporter.event("model_loaded", origin=loaded.origin, load=loaded.report.summary(), freeze=frozen.summary())
    phrase_cache = _cache_phrases(config, loaded, datasets, reporter)
    optimizer = build_optimizer(loaded.sam3, config.optim, fused=device.type == "cuda")
    decay = config.optim.ema_decay
    return Foundation(
        group=group,
        device=device,
        reporter=reporter,
        datasets=datasets,
        loaded=loaded,
        phrase_cache=phrase_cache,
        optimizer=optimizer,
        # It knows the optimizer, so that with CUDA only the next update waits for its copy, not the next forward.
        ema=None if decay is None else Ema(loaded.sam3, decay, optimizer=optimizer),
        memory=memory,
        access=access,
    )


def _tell_fetching(reporter: Reporter, beat: Callable[[str], None], arrived: int, total: int) -> None:
    beat("fetching the model")
    said = f"{arrived:,} of {total:,} bytes" if total else "another process of this node does it"
    reporter.progress(message=f"fetching the model: {said}")


def open_splits(config: TrainingConfig, access: DataAccess | None = None) -> dict[str, CocoDataset]:
    """Open train, valid (or its hold-out) and, where there is one, test.

    Args:
        config: the run's settings.
        access: as for `open_dataset`.

    Raises:
        InvalidDataset: also when the set is too small to hold anything out for selection.
    """
    access = access or DataAccess(config, os.environ)
    datasets = {"train": open_dataset(config, "train", access=access)}
    valid, test = open_dataset(config, "valid", access=access), open_dataset(config, "test", access=access)
    if valid is None:
        raise InvalidDataset(
            f"there is no valid split, and {len(datasets['train'])} training image cannot be divided; "
            "add a valid/ folder or more training images"
        )
    datasets["valid"] = valid
    if test is not None:
        datasets["test"] = test
    return datasets


def _cache_phrases(
    config: TrainingConfig, loaded: LoadedModel, datasets: dict[str, CocoDataset], reporter: Reporter
) -> PhraseCache | None:
    """With a frozen text encoder, encode every phrase once and give the encoder's memory back."""
    if "text" not in config.model.freeze:
        return None
    cache = PhraseCache(loaded.sam3, loaded.tokenizer)
    cache.add(phrase for dataset in datasets.values() for phrase in dataset.phrases)
    freed = cache.release_encoder()
    reporter.event("text_cached", phrases=len(cache), truncated=cache.num_truncated, freed_bytes=freed)
    return cache
