"""The weights of one commit in a model, without the run: for scoring and for handing over."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sam3ft_api.errors import CheckpointIncompatible
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.load import LoadedModel
from sam3ft_trainer.model.text import TEXT_PREFIXES
from sam3ft_trainer.run.ema import Ema
from sam3ft_trainer.run.model_place import place_model
from sam3ft_trainer.run.state import LoopState
from sam3ft_trainer.run.tensors import EMA, MODEL, ema_tensors, model_tensors
from sam3ft_trainer.store.history import History
from sam3ft_trainer.store.reading import RunReader
from sam3ft_trainer.store.records import CommitEntry, RunFacts, differing_settings
from sam3ft_trainer.store.retention import best_commits

GROUPS = frozenset({MODEL.rstrip("/"), EMA.rstrip("/")})


@dataclass(frozen=True, slots=True)
class RunWeights:
    """A run's model at one commit.

    Attributes:
        loaded: the model; its weights are the commit's, the averaged ones when the run keeps an average.
        commit: where they come from.
        state: where the run stood.
        notes: one line for each thing worth knowing: commits that could not be read, settings that differ.
    """

    loaded: LoadedModel
    commit: CommitEntry
    state: LoopState
    notes: tuple[str, ...]


def choose_step(history: History, metric: str) -> tuple[int, str]:
    """Return the step whose weights the run would hand over now, and why; as at its end.

    Args:
        history: with at least one usable commit.
        metric: higher is better.
    """
    newest = history.usable_commits()[0]
    selection = LoopState.model_validate(newest.meta.extra).selection
    kept = {commit.meta.step for commit in history.usable_commits()}
    if selection.best_step in kept and selection.best_value is not None:
        assert selection.best_step is not None  # noqa: S101 - `kept` holds no None; narrows the type
        return selection.best_step, f"the best {selection.metric} on valid, {selection.best_value:.4f}"
    scored = best_commits(history, metric=metric, count=1)
    if scored:
        step = scored[0].meta.step
        return step, f"the best {metric} of the commits that are kept, {scored[0].meta.metrics[metric]:.4f}"
    return newest.meta.step, "the newest commit; no commit that is kept was scored"


def load_run_weights(
    config: TrainingConfig, reader: RunReader, *, step: int | None, device: torch.device
) -> RunWeights:
    """Build the run's model and put the weights of a commit into it.

    Args:
        config: of the run.
        reader: at the run's address.
        step: of the commit; None takes the newest.
        device: where to.

    Raises:
        InvalidConfig: there is no commit of this step.
        CheckpointIncompatible: the initial weights at `model.uri` are others than the run began with, or the commit
            holds other tensors than these settings make.
        ModelUnusable, StorageDenied, StorageUnavailable: as `load_model` and the store say.
    """
    facts = reader.facts()
    loaded = place_model(config.model.uri, config, os.environ).load(config, device=device)
    if loaded.digest != facts.model_digest:
        # A frozen text encoder is not in the commits; it comes from here.
        raise CheckpointIncompatible(
            f"the weights at {config.model.uri} have digest {loaded.digest[:16]!r}, and the run at {reader.address} "
            f"began with {facts.model_digest[:16]!r}; put the original weights back"
        )
    freeze_parts(loaded.sam3, config.model.freeze, task=config.task, geometry_cls=config.model.geometry_cls)
    ema = None if config.optim.ema_decay is None else Ema(loaded.sam3, config.optim.ema_decay)
    found = reader.load(_targets(config, loaded, ema), groups=GROUPS, step=step)
    if ema is not None:
        _put_averages(loaded, ema)
    notes = (*found.passed_over, *_differences(facts, config))
    return RunWeights(loaded, found.commit, LoopState.model_validate(found.commit.meta.extra), notes)


def _targets(config: TrainingConfig, loaded: LoadedModel, ema: Ema | None) -> Mapping[str, Tensor]:
    """Return what a commit holds of the model: a frozen text encoder is released before the first one."""
    dropped = tuple(MODEL + prefix for prefix in TEXT_PREFIXES) if "text" in config.model.freeze else ()
    held = {name: tensor for name, tensor in model_tensors(loaded.sam3).items() if not name.startswith(dropped)}
    return held | ema_tensors(ema)


@torch.no_grad()
def _put_averages(loaded: LoadedModel, ema: Ema) -> None:
    averages = ema.tensors()
    for name, parameter in loaded.sam3.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(averages[name])


def _differences(facts: RunFacts, config: TrainingConfig) -> list[str]:
    if facts.numbers_digest == config.numbers_digest():
        return []
    differing = differing_settings(facts.settings, config.numbers())
    return [f"the run was trained with other settings: {line}" for line in differing]
