"""Scoring within a run: the untouched model first, then what is being trained, on the split that selects."""

from sam3ft_trainer.data.pipeline import EvalLoader, decode_threads
from sam3ft_trainer.evaluate.read import truth_of
from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.evaluate.split import EvaluationPlan, evaluate_split
from sam3ft_trainer.run.machine import processes_here
from sam3ft_trainer.run.session import Session


def evaluation_plan(run: Session, split: str, *, pictures: int = 0, control: bool = False) -> EvaluationPlan:
    """Return how a split is scored within this run."""
    return EvaluationPlan(
        split=split,
        device=run.foundation.device,
        precision=run.config.scratch.precision,
        masks=run.config.scratch.enable_segmentation,
        group=run.group,
        pictures=pictures,
        control=control,
        on_image=lambda done: run.watchdog.beat(f"scoring {split}, image {done}"),
    )


def score_split(run: Session, split: str, *, pictures: int = 0, control: bool = False) -> SplitScores:
    """Score the present weights (the averages, when they are kept) on one split; the same result on every rank."""
    dataset = run.foundation.datasets[split]
    loader = EvalLoader(
        dataset,
        run.config,
        rank=run.group.rank,
        world_size=run.group.world_size,
        threads=decode_threads(run.config, processes_here=processes_here()),
    )
    truth = truth_of(dataset, masks=run.config.scratch.enable_segmentation)
    plan = evaluation_plan(run, split, pictures=pictures, control=control)
    run.reporter.progress(state="evaluating", message=f"scoring {split}")
    with run.scored_weights():
        scores = evaluate_split(run.model, loader, truth, run.config.evaluation, text=run.text.encode, plan=plan)
    run.reporter.progress(state=run.progress_state, message="")
    return scores


def score_baseline(run: Session) -> None:
    """Score the untouched model on the selecting split and on test, once in the life of a run."""
    if run.state.evaluated_step >= 0 or run.state.step > 0 or not run.config.evaluation.baseline:
        return
    baseline: dict[str, SplitScores] = {}
    for split in ("valid", "test"):
        if split in run.foundation.datasets:
            scores = score_split(run, split)
            baseline[split] = scores.without_pictures()
            tell_scores(run, scores, step=0, baseline=True)
    run.update(evaluated_step=0, baseline=baseline)


def score_selection(run: Session) -> bool:
    """Score the present weights on the selecting split; return whether they are the best so far."""
    if run.state.evaluated_step == run.state.step:
        return False
    evaluation = run.config.evaluation
    scores = score_split(run, "valid")
    selection, is_best = run.state.selection.observe(
        scores.metrics.get(evaluation.metric), step=run.state.step, min_delta=evaluation.min_delta
    )
    run.update(
        selection=selection,
        metrics=scores.finite_metrics(),
        evaluated_step=run.state.step,
        stopped_early=run.state.stopped_early or selection.is_exhausted(evaluation.patience),
    )
    tell_scores(run, scores, step=run.state.step, is_best=is_best)
    run.tell_selection()
    if run.state.stopped_early:
        run.reporter.event("stopped_early", step=run.state.step, evaluations=selection.since_best)
    return is_best


def tell_scores(run: Session, scores: SplitScores, *, step: int, **fields: bool) -> None:
    """Record an evaluation of the weights of `step`; `fields` mark it as baseline, best or final."""
    run.reporter.event(
        "evaluation",
        split=scores.split,
        step=step,
        epoch=round(step / run.steps_per_epoch, 4),
        metrics=dict(scores.metrics),
        per_class=[row.model_dump(mode="json") for row in scores.per_class],
        images=scores.images,
        unreadable_images=scores.unreadable_images,
        seconds=round(scores.seconds, 3),
        **fields,
    )
    run.reporter.scalars(step, {f"{scores.split}/{k}": v for k, v in scores.finite_metrics().items()})
