"""What the model card of a run tells, and the inputs on which its export is checked; shared by run and `export`."""

import importlib.metadata
from dataclasses import dataclass

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.order import steps_per_epoch
from sam3ft_trainer.data.pipeline import EvalLoader
from sam3ft_trainer.export.card import CardCategory, CardFacts, CardScores
from sam3ft_trainer.export.check import CheckInputs
from sam3ft_trainer.model.load import LoadedModel
from sam3ft_trainer.model.text import Tokenizer
from sam3ft_trainer.run.facts import VERSIONED, dataset_digest


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The card's table of scores.

    Attributes:
        split: that was scored.
        images: of it.
        rows: the base model first; may be empty.
    """

    split: str
    images: int
    rows: tuple[CardScores, ...]


def card_facts(
    config: TrainingConfig, train: CocoDataset, base: LoadedModel, *, step: int, table: ScoreTable
) -> CardFacts:
    """Collect what the card tells.

    Args:
        config: of the run.
        train: what was trained on.
        base: origin and digest of the initial weights.
        step: optimizer steps behind the weights.
        table: their scores.
    """
    counts = {category.id: category for category in train.report.categories}
    epochs = step / steps_per_epoch(len(train), config.scratch.train_batch_size)
    return CardFacts(
        name=config.identity.name,
        task=config.task,
        base_model=base.origin,
        base_digest=base.digest,
        resolution=config.scratch.resolution,
        geometry_cls=config.model.geometry_cls,
        settings={
            "steps": step,
            "epochs": round(epochs, 2),
            "images per step": config.scratch.train_batch_size,
            "learning rate": config.optim.lr,
            "precision": config.scratch.precision,
            "frozen parts": ", ".join(config.model.freeze) or "none",
            "seed": config.scratch.seed_value,
        },
        images=len(train),
        data_digest=dataset_digest(train),
        categories=tuple(
            CardCategory(name=category.name, phrases=counts[category.id].phrases, objects=counts[category.id].objects)
            for category in train.categories
        ),
        scored_split=table.split,
        scored_images=table.images,
        scores=table.rows,
        versions={name: importlib.metadata.version(name) for name in VERSIONED},
    )


def check_inputs(config: TrainingConfig, valid: CocoDataset, tokenizer: Tokenizer) -> CheckInputs:
    """Return real inputs for the check of an export: the first readable image of `valid`, with its phrases.

    Raises:
        InvalidDataset: more images cannot be read than `data.max_bad` allows, which is never all of them.
    """
    batch = next(batch for batch in EvalLoader(valid, config) if len(batch.img_idx_B))
    return CheckInputs.from_batch(batch, tokenizer)
