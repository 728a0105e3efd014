"""What makes a history of checkpoints this run's: digests of settings, data and initial weights."""

import hashlib
import importlib.metadata

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.model.load import LoadedModel
from sam3ft_trainer.store.records import RunFacts

VERSIONED = ("torch", "transformers", "sam3ft")
"""Packages whose versions stand in every claim."""


def run_facts(
    config: TrainingConfig, loaded: LoadedModel, datasets: dict[str, CocoDataset], *, attempt: int
) -> RunFacts:
    """Return the facts that a claim records and compares.

    `attempt` counts the starts by the user: restarts within one are the same invocation, so that `resume: never`
    starts over once, and not after every interruption.
    """
    return RunFacts(
        task=config.task,
        numbers_digest=config.numbers_digest(),
        dataset_digest=dataset_digest(datasets["train"]),
        model_digest=loaded.digest,
        settings=config.numbers(),
        versions={name: importlib.metadata.version(name) for name in VERSIONED},
        invocation=f"{config.identity.uid}/{attempt}",
        on_dataset_change=config.data.on_change,
    )


def dataset_digest(train: CocoDataset) -> str:
    """Return the hex SHA-256 of the training annotations and of which images they are for."""
    ids = ",".join(str(image_id) for image_id in train.image_ids)
    return hashlib.sha256(f"{train.report.digest}\n{ids}".encode()).hexdigest()
