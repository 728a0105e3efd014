"""The model that is handed back at the end of a run."""

import os

from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.export.card import CardScores
from sam3ft_trainer.export.package import ExportPlan, export_model
from sam3ft_trainer.export.publish import is_in_place
from sam3ft_trainer.run.card import ScoreTable, card_facts, check_inputs
from sam3ft_trainer.run.session import Session
from sam3ft_trainer.store.access import Access, run_access
from sam3ft_trainer.store.records import CommitMeta
from sam3ft_trainer.store.uri import parse_address


def hand_over(run: Session, scores: SplitScores, hf_call: SplitScores, *, step: int) -> str | None:
    """Export the weights in place, checked in a fresh process, and record it in the log. Rank 0 only.

    An export of these weights that an earlier attempt has recorded, and that is still in place, is not made again.

    Returns:
        Its address; None without `export.uri`.

    Raises:
        ModelUnusable: the reloaded model is another one; nothing appears at the destination then.
        StorageDenied, StorageUnavailable: as the destination says.
    """
    export = run.config.export
    if export.uri is None:
        return None
    access = run_access(run.config.storage, os.environ)
    if (address := _recorded(run, export.uri, access, step=step)) is not None:
        run.reporter.event("export_found", address=address, step=step)
        return address
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
        access=access,
        outage_s=run.config.runtime.outage_s,
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
    metrics = {name: value for name, value in scores.metrics.items() if value is not None}
    meta = CommitMeta(step=step, epoch=step / run.steps_per_epoch, metrics=metrics)
    run.store.record_export(result.record, meta)
    return result.address


def _recorded(run: Session, destination: str, access: Access, *, step: int) -> str | None:
    entry = run.store.exported()
    if entry is None or entry.export is None or entry.meta.step != step:
        return None
    if entry.export.address != str(parse_address(destination)) or not is_in_place(entry.export, access=access):
        return None
    return entry.export.address


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
