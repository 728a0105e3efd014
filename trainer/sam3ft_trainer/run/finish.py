"""The end of a run: choose the weights, score them once on test, hand them over, and say so.

Everything here can be repeated: a run that is killed after its last step comes back to this point from its newest
commit, and the final entry of the log, written last, is what makes it complete.
"""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sam3ft_api.files import write_atomically
from sam3ft_trainer.evaluate.hf_call import score_hf_call
from sam3ft_trainer.evaluate.read import truth_of
from sam3ft_trainer.evaluate.report.build import CONFIG, REPORT, build_report, save_pictures
from sam3ft_trainer.evaluate.report.document import FinalScores
from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.model.processor import build_processor
from sam3ft_trainer.run.handover import hand_over
from sam3ft_trainer.run.scoring import evaluation_plan, score_split, tell_scores
from sam3ft_trainer.run.session import Session
from sam3ft_trainer.run.tensors import all_tensors

SCORES_FILE = "scores.json"
"""Name, inside the work folder, of the final scores."""
REPORT_PICTURES = 12
"""Images of the scored split whose detections are kept for the report."""
WEIGHT_GROUPS = ("model", "ema")


class Chosen(BaseModel):
    """Which weights are handed over, and why.

    Attributes:
        step: of their commit.
        why: one sentence for people.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    why: str


class RunScores(FinalScores):
    """What `scores.json` holds: the report's scores, and what they are scores of.

    Attributes:
        chosen: the weights that were scored.
        export: address of the exported model, None without one.
    """

    chosen: Chosen
    export: str | None = None


def finish(run: Session) -> None:
    """Choose, score, export, record, report; every rank takes part, rank 0 writes."""
    run.progress_state = "evaluating"
    chosen = _choose(run)
    run.reporter.event("chosen", step=chosen.step, why=chosen.why)
    split = "test" if "test" in run.foundation.datasets else "valid"
    scores = score_split(run, split, pictures=REPORT_PICTURES, control=True)
    tell_scores(run, scores, step=chosen.step, final=True)
    with run.scored_weights():
        _restore_text(run)
        hf_call = _score_hf_call(run, split)
        final = RunScores(
            chosen=chosen, final=scores, baseline=run.state.baseline.get(split), hf_call=hf_call.without_pictures()
        )
        if run.group.rank == 0:
            exported = hand_over(run, scores, hf_call, step=chosen.step)
            _record(run, final, exported)
    run.group.barrier()


def report_again(run: Session) -> None:
    """Make the report of a complete run once more if it is not there: the run may have been killed while writing it."""
    work_dir = run.environment.work_dir
    run.reporter.progress(state="finished", message="complete", step=run.state.step, force=True)
    if run.group.rank == 0 and (work_dir / SCORES_FILE).exists() and not (work_dir / REPORT).exists():
        _report(run)


def _choose(run: Session) -> Chosen:
    """Load the best commit's weights when they are not the last ones."""
    state, selection = run.state, run.state.selection
    if selection.best_step is None or selection.best_step == state.step:
        reason = "the last step" if selection.best_step is None else f"the best {selection.metric}, and the last step"
        return Chosen(step=state.step, why=reason)
    tensors = {
        name: tensor
        for name, tensor in all_tensors(run.foundation.loaded.sam3, run.stepper.optimizer, run.ema).items()
        if name.startswith(tuple(f"{group}/" for group in WEIGHT_GROUPS))
    }
    loaded = run.store.load_groups(selection.best_step, tensors, groups=frozenset(WEIGHT_GROUPS))
    failures = run.group.sum([0.0 if loaded else 1.0])[0]
    if not failures:
        return Chosen(step=selection.best_step, why=f"the best {selection.metric} on valid, {selection.best_value:.4f}")
    run.reporter.event("best_unusable", step=selection.best_step, ranks=int(failures))
    if not run.store.load_groups(state.step, tensors, groups=frozenset(WEIGHT_GROUPS)):
        raise RuntimeError(f"neither the best commit (step {selection.best_step}) nor the last can be read again")
    return Chosen(
        step=state.step,
        why=f"the last step; the commit of the best one (step {selection.best_step}) is missing or damaged",
    )


def _restore_text(run: Session) -> None:
    """The plain call and the export need the text encoder that a frozen run has put away."""
    cache = run.foundation.phrase_cache
    if cache is not None:
        run.watchdog.beat("reading the text encoder again")
        cache.restore_encoder(run.foundation.loaded.source)


def _score_hf_call(run: Session, split: str) -> SplitScores:
    dataset = run.foundation.datasets[split]
    masks = run.config.scratch.enable_segmentation
    loaded = run.foundation.loaded
    return score_hf_call(
        loaded.sam3,
        build_processor(loaded.tokenizer, run.config.scratch.resolution),
        dataset,
        truth_of(dataset, masks=masks),
        run.config.evaluation,
        plan=evaluation_plan(run, split),
    )


def _record(run: Session, final: RunScores, exported: str | None) -> None:
    """Write the scores, close the log with the final entry, then the report: the report can always be made again."""
    work_dir: Path = run.environment.work_dir
    final = final.model_copy(update={"export": exported})
    write_atomically(work_dir / SCORES_FILE, final.model_dump_json(indent=1))
    if run.chronicle is not None:
        run.chronicle.keep_scores(work_dir / SCORES_FILE)
    reports = {split: dataset.report.to_json() for split, dataset in run.foundation.datasets.items()}
    if not (work_dir / CONFIG).exists():
        write_atomically(work_dir / CONFIG, run.config.model_dump_json(indent=1))
    if final.final is not None:
        dataset = run.foundation.datasets[final.final.split]
        truth = truth_of(dataset, masks=run.config.scratch.enable_segmentation)
        save_pictures(work_dir, dataset, truth, final.final, threshold=run.config.evaluation.score_threshold)
    if not (work_dir / "dataset.json").exists():
        write_atomically(work_dir / "dataset.json", json.dumps(reports))
    run.store.finalize(run.commit_meta())
    run.drain_store_events()
    run.reporter.event("finished", step=run.state.step, export=final.export, elapsed_s=round(run.state.elapsed_s, 1))
    run.reporter.progress(state="finished", message="complete", eta_s=0.0, force=True)
    _report(run)


def _report(run: Session) -> None:
    """Make the page from the log of all attempts, wherever they ran, and keep it beside the checkpoints."""
    page = run.environment.work_dir / REPORT
    build_report(page.parent, page, log=None if run.chronicle is None else run.chronicle.whole_log())
    if run.chronicle is not None:
        run.chronicle.keep_page(page)
        run.tell_store_news()
