"""The model that is handed back, with the facts of its card."""

import importlib.metadata

from sam3ft_trainer.data.pipeline import EvalLoader
from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.export.card import CardCategory, CardFacts, CardScores
from sam3ft_trainer.export.check import CheckInputs
from sam3ft_trainer.export.package import ExportPlan, ExportResult, export_model
from sam3ft_trainer.run.facts import VERSIONED, dataset_digest
from sam3ft_trainer.run.session import Session


def hand_over(run: Session, scores: SplitScores, hf_call: SplitScores, *, step: int) -> ExportResult | None:
    """Export the weights in place and check them in a fresh process; None without `export.uri`. Rank 0 only.

    Raises:
        ModelUnusable: the reloaded model is another one; nothing appears at the destination then.
        StorageDenied, StorageUnavailable: as the destination says.
    """
    export = run.config.export
    if export.uri is None:
        return None
    run.progress_state = "exporting"
    run.reporter.progress(state="exporting", message=f"exporting to {export.uri}", force=True)
    run.watchdog.beat("exporting")
    plan = ExportPlan(
        destination=export.uri,
        scratch=run.environment.work_dir,
        dtype=export.dtype,
        config=run.config.model,
        inputs=_check_inputs(run),
    )
    loaded = run.foundation.loaded
    result = export_model(loaded.sam3, loaded.tokenizer, card_facts(run, scores, hf_call, step=step), plan)
    run.reporter.event(
        "exported",
        address=result.address,
        bytes=result.weight_bytes,
        largest_difference=result.check.largest_difference,
        warnings=list(result.check.warnings),
        seconds=round(result.seconds, 2),
    )
    return result


def card_facts(run: Session, scores: SplitScores, hf_call: SplitScores, *, step: int) -> CardFacts:
    """Collect what the model card tells."""
    config, train = run.config, run.foundation.datasets["train"]
    loaded = run.foundation.loaded
    rows = []
    baseline = run.state.baseline.get(scores.split)
    if baseline is not None:
        rows.append(CardScores(label="before, trainer's forward", metrics=baseline.metrics))
    rows.append(CardScores(label="after, trainer's forward", metrics=scores.metrics))
    rows.append(CardScores(label="after, plain Hugging Face call", metrics=hf_call.metrics))
    counts = {category.id: category for category in train.report.categories}
    return CardFacts(
        name=config.identity.name,
        task=config.task,
        base_model=loaded.origin,
        base_digest=loaded.digest,
        resolution=config.scratch.resolution,
        geometry_cls=config.model.geometry_cls,
        settings={
            "steps": step,
            "epochs": round(step / run.steps_per_epoch, 2),
            "images per step": config.scratch.train_batch_size,
            "learning rate": config.optim.lr,
            "precision": config.scratch.precision,
            "frozen parts": ", ".join(config.model.freeze) or "none",
            "seed": config.scratch.seed_value,
        },
        images=len(train),
        data_digest=dataset_digest(run.foundation.datasets["train"]),
        categories=tuple(
            CardCategory(name=category.name, phrases=counts[category.id].phrases, objects=counts[category.id].objects)
            for category in train.categories
        ),
        scored_split=scores.split,
        scored_images=scores.images,
        scores=tuple(rows),
        versions={name: importlib.metadata.version(name) for name in VERSIONED},
    )


def _check_inputs(run: Session) -> CheckInputs:
    """Real inputs for the comparison: the first readable image of the selecting split, with its phrases."""
    loader = EvalLoader(run.foundation.datasets["valid"], run.config)
    batch = next(batch for batch in loader if len(batch.img_idx_B))
    return CheckInputs.from_batch(batch, run.foundation.loaded.tokenizer)
