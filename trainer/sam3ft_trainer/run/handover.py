"""The model that is handed back at the end of a run."""

import os

from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.export.card import CardScores
from sam3ft_trainer.export.package import ExportPlan, ExportResult, export_model
from sam3ft_trainer.run.card import ScoreTable, card_facts, check_inputs
from sam3ft_trainer.run.session import Session
from sam3ft_trainer.store.access import run_access


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
    loaded, datasets = run.foundation.loaded, run.foundation.datasets
    plan = ExportPlan(
        destination=export.uri,
        scratch=run.environment.work_dir,
        dtype=export.dtype,
        config=run.config.model,
        inputs=check_inputs(run.config, datasets["valid"], loaded.tokenizer),
        access=run_access(run.config.storage, os.environ),
    )
    facts = card_facts(run.config, datasets["train"], loaded, step=step, table=_table(run, scores, hf_call))
    result = export_model(loaded.sam3, loaded.tokenizer, facts, plan)
    run.reporter.event(
        "exported",
        address=result.address,
        bytes=result.weight_bytes,
        largest_difference=result.check.largest_difference,
        warnings=list(result.check.warnings),
        seconds=round(result.seconds, 2),
    )
    return result


def _table(run: Session, scores: SplitScores, hf_call: SplitScores) -> ScoreTable:
    baseline = run.state.baseline.get(scores.split)
    before = [] if baseline is None else [CardScores(label="before, trainer's forward", metrics=baseline.metrics)]
    return ScoreTable(
        split=scores.split,
        images=scores.images,
        rows=(
            *before,
            CardScores(label="after, trainer's forward", metrics=scores.metrics),
            CardScores(label="after, plain Hugging Face call", metrics=hf_call.metrics),
        ),
    )
