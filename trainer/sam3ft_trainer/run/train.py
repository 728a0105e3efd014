"""The loop, readable top to bottom.

A run is: restore the newest commit, or start; then step after step until the last one; then finish. Between two steps
the ranks agree on everything that must be decided together: the counts that normalise the loss, a request to stop,
and whether time has come to commit or to cool down. One message carries it all, ahead of the step, on the CPU.
"""

from dataclasses import dataclass

from sam3ft_api.errors import NonFiniteLoss
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.draw import draw_batch
from sam3ft_trainer.data.pipeline import StepBatches
from sam3ft_trainer.loss.total import local_counts, sum_counts
from sam3ft_trainer.run.bundle import write_bundle
from sam3ft_trainer.run.finish import finish, report_again
from sam3ft_trainer.run.horizon import is_evaluation_due
from sam3ft_trainer.run.progress import report_step
from sam3ft_trainer.run.scoring import score_baseline, score_selection
from sam3ft_trainer.run.session import Session
from sam3ft_trainer.run.setup import open_session
from sam3ft_trainer.run.step import StepResult
from sam3ft_trainer.run.stopping import cannot_save, stop
from sam3ft_trainer.run.worker import LastWord, WorkerEnvironment
from sam3ft_trainer.tensors import GlobalCounts

FIRST_BATCH = "first_batch.png"
"""Name, inside the work folder, of the picture of the first micro-batch with its boxes, masks and phrases."""


def train(config: TrainingConfig, environment: WorkerEnvironment, last_word: LastWord) -> None:
    """Train, evaluate, export and report as one rank of the run; returns when the run is complete.

    Raises:
        Sam3ftError: every other way in which a run ends; the class says what follows.
    """
    with open_session(config, environment, last_word) as run:
        if run.is_complete:
            run.reporter.event("already_complete", step=run.state.step)
            report_again(run)
            return
        if run.state.selection.best_step is not None:
            run.tell_selection()  # a resumed run's, whose progress began anew with this process
        score_baseline(run)
        _loop(run)
        finish(run)


def _loop(run: Session) -> None:
    previous: StepResult | None = None
    is_told = False
    upcoming = run.next_batches()
    _draw_first(run, upcoming)
    run.meter.begin()
    while not run.state.is_finished:
        with run.spans.span("data"):
            batches = upcoming if upcoming is not None else run.next_batches()
            on_device = run.feed.put(batches.micro_batches)
        with run.spans.span("agree"):
            agreed = _agree(run, batches)
        if agreed.wants_stop:
            _read(run, previous)
            stop(run, saves=not agreed.cannot_save)
        if agreed.cool_down:
            _read(run, previous)
            previous = None
            _cool_down(run)
            run.meter.begin()
        run.feed.ready(on_device)
        result = run.stepper.step(
            on_device,
            agreed.counts,
            step=run.state.step,
            total_steps=run.state.total_steps,
            num_images=len(batches.image_ids),
        )
        _advance(run, batches)
        with run.spans.span("log"):
            _read(run, previous)
            run.tell_store_news()
        run.meter.end_step()
        if not is_told:
            run.environment.say_training()
            is_told = True
        previous = result
        if _is_boundary(run, agreed):
            _read(run, previous)
            previous = None
            _boundary(run)
            run.meter.begin()
        with run.spans.span("data"):
            upcoming = None if run.state.is_finished else run.next_batches()
    _read(run, previous)


def _draw_first(run: Session, batches: StepBatches) -> None:
    """Draw the first micro-batch of the run as the model will see it: the quickest way to notice wrong annotations."""
    batch = batches.micro_batches[0]
    if run.group.rank == 0 and run.state.step == 0 and batch.image_ids:
        draw_batch(batch, run.environment.work_dir / FIRST_BATCH)


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What all ranks know ahead of a step."""

    counts: GlobalCounts
    wants_stop: bool
    cool_down: bool
    commit: bool
    cannot_save: bool


def _agree(run: Session, batches: StepBatches) -> _Agreed:
    """Sum this step's counts over ranks; the same message carries flags and rank 0's clock decisions."""
    local = sum_counts(
        local_counts(batch.targets, segmentation=run.config.scratch.enable_segmentation)
        for batch in batches.micro_batches
    )
    run.flag = run.flags.poll()
    decides = run.group.rank == 0
    summed = run.group.sum(
        [
            local.num_boxes,
            local.num_pairs,
            local.num_mask_pairs,
            float(run.flag is not None),
            float(decides and run.must_cool_down()),
            float(decides and run.commit_is_due()),
            float(cannot_save(run)),
        ]
    )
    return _Agreed(
        counts=GlobalCounts(num_boxes=summed[0], num_pairs=summed[1], num_mask_pairs=summed[2]),
        wants_stop=summed[3] > 0,
        cool_down=summed[4] > 0,
        commit=summed[5] > 0,
        cannot_save=summed[6] > 0,
    )


def _advance(run: Session, batches: StepBatches) -> None:
    """Count the step that has been asked for; with CUDA it may still be running."""
    run.trace(batches)
    run.tally.add(batches)
    run.meter.ask_step(len(batches.image_ids))
    if run.ema is not None:
        # Also after a skipped update, which may not be known yet: the average then moves towards unchanged weights.
        run.ema.update(run.model.sam3)
    run.update(step=run.state.step + 1, elapsed_s=run.elapsed_s(), cursor=batches.cursor_after)
    run.watchdog.beat(f"training step {run.state.step}")


def _read(run: Session, result: StepResult | None) -> None:
    """Take in the numbers of a step that has been asked for earlier, and judge whether it was applied."""
    if result is None:
        return
    numbers = result.read()
    if not numbers.applied and not numbers.is_scaler_search:
        run.state = run.state.with_skip(result.step)
        path = write_bundle(run.environment.work_dir, run.group.rank, result, numbers)
        run.reporter.event(
            "step_skipped", step=result.step, loss=numbers.loss, grad_norm=numbers.grad_norm, bundle=str(path)
        )
        if run.state.skips_within_window() > run.config.optim.non_finite_budget:
            raise NonFiniteLoss(
                f"{run.state.skips_within_window()} of the last 1,000 updates had a non-finite loss or gradient, "
                f"{run.config.optim.non_finite_budget} are allowed (optim.non_finite_budget); the last was step "
                f"{result.step}. Lower the learning rate, use bf16 or fp32, or look at the bundles in {path.parent}"
            )
    report_step(run, result, numbers)


def _is_boundary(run: Session, agreed: _Agreed) -> bool:
    every = run.config.checkpoint.every_steps
    return (
        agreed.commit
        or run.state.is_finished
        or (every is not None and run.state.step % every == 0)
        or _evaluation_is_due(run)
    )


def _evaluation_is_due(run: Session) -> bool:
    return is_evaluation_due(
        step=run.state.step,
        steps_per_epoch=run.steps_per_epoch,
        every_epochs=run.config.evaluation.every_epochs,
        total_steps=run.state.total_steps,
    )


def _boundary(run: Session) -> None:
    """Score and commit; a commit always holds the score of its own weights when there is one."""
    is_best = False
    if _evaluation_is_due(run):
        is_best = score_selection(run)
    # A new best and the end must be durable before the run goes on; a periodic save may be skipped.
    run.commit(wait=is_best or run.state.is_finished)


def _cool_down(run: Session) -> None:
    """Fix the last step, durably: whoever resumes this run must end it at the same step."""
    run.update(total_steps=min(run.state.total_steps, run.state.step + run.config.optim.cooldown), horizon_fixed=True)
    run.reporter.event("cool_down", step=run.state.step, total_steps=run.state.total_steps)
    run.commit(wait=True)
