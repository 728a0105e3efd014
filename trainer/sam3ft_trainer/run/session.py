"""Everything that is alive during a run, in one place: built once by `setup.open_session`, handed to every step."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import Flag
from sam3ft_trainer.data.pipeline import StepBatches
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run.chronicle import Chronicle
from sam3ft_trainer.run.ema import Ema
from sam3ft_trainer.run.events import Reporter
from sam3ft_trainer.run.flags import FlagReader
from sam3ft_trainer.run.foundation import Foundation
from sam3ft_trainer.run.group import Group
from sam3ft_trainer.run.horizon import TimeBudget
from sam3ft_trainer.run.meter import Meter
from sam3ft_trainer.run.prefetch import DeviceFeed
from sam3ft_trainer.run.progress import Pace
from sam3ft_trainer.run.spans import Spans
from sam3ft_trainer.run.state import LoopState
from sam3ft_trainer.run.step import Stepper
from sam3ft_trainer.run.tally import Tally
from sam3ft_trainer.run.tensors import all_tensors
from sam3ft_trainer.run.text import TextSource
from sam3ft_trainer.run.watchdog import Watchdog
from sam3ft_trainer.run.worker import LastWord, WorkerEnvironment
from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.records import CommitMeta
from sam3ft_trainer.store.saves import Event


@dataclass(slots=True)
class Session:
    """One rank's hold on the run.

    Attributes:
        config: the run's settings.
        environment: rank, folders and files of this worker.
        last_word: facts for the worker's result.
        foundation: ranks, device, data, weights, optimizer.
        watchdog: ends a run that hangs.
        spans: where the time goes.
        meter: how long steps take, and memory.
        model: the network in training form.
        text: phrases as the model takes them.
        stepper: does the updates.
        feed: brings batches to the device.
        batches: the loader's stream from the present cursor on.
        store: commit log and checkpoints.
        flags: requests of the launcher.
        state: where the run stands.
        steps_per_epoch: optimizer steps of one pass over the data.
        is_complete: the log already holds the run's final entry.
        flag: the request seen before this step, if any.
        tally: what the loader left out since the last log line.
        chronicle: keeps the log beside the checkpoints; on rank 0.
        bad_images: images that could not be read, with the reason; rank 0 knows those of all ranks.
        progress_state: what the run is doing apart from the evaluation or save of the moment.
    """

    config: TrainingConfig
    environment: WorkerEnvironment
    last_word: LastWord
    foundation: Foundation
    watchdog: Watchdog
    spans: Spans
    meter: Meter
    model: TrainingModel
    text: TextSource
    stepper: Stepper
    feed: DeviceFeed
    batches: Iterator[StepBatches]
    store: RunStore
    flags: FlagReader
    state: LoopState
    steps_per_epoch: int
    is_complete: bool
    pace: Pace = field(default_factory=Pace)
    flag: Flag | None = None
    progress_state: str = "training"
    trace_file: TextIO | None = None
    tally: Tally = field(default_factory=Tally)
    chronicle: Chronicle | None = None
    bad_images: dict[int, str] = field(default_factory=dict)
    _started_s: float = field(default_factory=time.monotonic)
    _elapsed_before_s: float = 0.0
    _committed_s: float = field(default_factory=time.monotonic)
    _saved_state: LoopState | None = None
    _told_step: int | None = None

    def __post_init__(self) -> None:
        """Remember the time that earlier attempts used."""
        self._elapsed_before_s = self.state.elapsed_s

    @property
    def group(self) -> Group:
        """The ranks of this round."""
        return self.foundation.group

    @property
    def reporter(self) -> Reporter:
        """Speaks on rank 0, is silent elsewhere."""
        return self.foundation.reporter

    @property
    def ema(self) -> Ema | None:
        """Averaged weights, if they are kept."""
        return self.foundation.ema

    def next_batches(self) -> StepBatches:
        """Return this rank's micro-batches of the next step; waits for the loader, counts as `data`."""
        return next(self.batches)

    def update(self, **changes: Any) -> None:
        """Change the state, and keep the worker's last word up to date."""
        self.state = self.state.model_copy(update=changes)
        self.last_word.step = self.state.step
        self.last_word.metrics = self.state.metrics
        self.last_word.checkpoint_step = self.store.newest_step

    def elapsed_s(self) -> float:
        """Return the seconds of training over all attempts."""
        return self._elapsed_before_s + time.monotonic() - self._started_s

    def budget_left_s(self) -> float | None:
        """Return the seconds left of `scratch.max_duration_s`; None without such a budget."""
        budget_s = self.config.scratch.max_duration_s
        return None if budget_s is None else budget_s - self.elapsed_s()

    def must_cool_down(self) -> bool:
        """Say whether the time budget asks for the cool-down to start before the next step; asked on rank 0."""
        if self.state.horizon_fixed:
            return False
        budget = TimeBudget(self.config.scratch.max_duration_s, self.config.optim.cooldown)
        last = budget.last_step(
            step=self.state.step,
            total_steps=self.state.total_steps,
            elapsed_s=self.elapsed_s(),
            seconds_per_step=self.pace.seconds_per_step,
        )
        return last is not None

    def commit_is_due(self) -> bool:
        """Say whether `checkpoint.every_seconds` has passed since the last commit; asked on rank 0."""
        every_s = self.config.checkpoint.every_seconds
        return every_s is not None and time.monotonic() - self._committed_s >= every_s

    def commit(self, *, wait: bool) -> None:
        """Commit the present state; all ranks call it at the same step boundary.

        Args:
            wait: return only when the commit is durable; else the upload goes on behind the training, and the save
                is skipped, and counted, when the one before is still under way.

        Raises:
            Fenced, StorageUnavailable, StorageDenied: also for a failure of an earlier save in the background.
        """
        with self.spans.span("checkpoint"):
            self.watchdog.beat(f"saving step {self.state.step}")
            self.state = self.state.model_copy(
                update={
                    "loss_scale": self.stepper.loss_scale(),
                    "elapsed_s": self.elapsed_s(),
                    "save_s": self.store.last_save_s or self.state.save_s,
                }
            )
            self.store.save(
                all_tensors(self.model.sam3, self.stepper.optimizer, self.ema), self.commit_meta(), wait=wait
            )
            self._committed_s, self._saved_state = time.monotonic(), self.state
            self.drain_store_events()

    def is_saved(self) -> bool:
        """Say whether the last save that was asked for was of exactly this state; it may still be under way."""
        return self._saved_state == self.state

    def commit_meta(self) -> CommitMeta:
        """Return the part of the present state that is not tensors; scores only if they are of these weights."""
        return CommitMeta(
            step=self.state.step,
            epoch=self.state.step / self.steps_per_epoch,
            cursor={"images": self.state.cursor},
            metrics=self.state.metrics if self.state.evaluated_step == self.state.step else {},
            extra=json.loads(self.state.model_dump_json()),
        )

    def tell_selection(self) -> None:
        """Put the newest scores for the selection, and the best one, into the progress."""
        selection = self.state.selection
        self.reporter.progress(
            metrics=self.state.metrics,
            best_metric=selection.metric,
            best_value=selection.best_value,
            best_step=selection.best_step,
            force=True,
        )

    def tell_store_news(self) -> None:
        """Pass on what the store did in the background; costs nothing when nothing happened."""
        for event in self.store.news():
            self._pass_on(event)
        if self._told_step != self.store.newest_step:
            self._told_step = self.last_word.checkpoint_step = self.store.newest_step
            self.reporter.progress(checkpoint_step=self._told_step)

    def drain_store_events(self) -> None:
        """Pass on what the store did in the background, and raise what went wrong there."""
        self.tell_store_news()
        for event in self.store.poll():
            self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        if event.name == "checkpoint_committed":
            self.meter.saved(event.fields)
        self.reporter.event(event.name, **event.fields)
        if event.name == "checkpoint_committed" and self.chronicle is not None:
            self.chronicle.nudge()

    def trace(self, batches: StepBatches) -> None:
        """Write which images of this rank the step used, when `runtime.trace_samples` asks for it."""
        if self.trace_file is not None:
            ids = [image_id for batch in batches.micro_batches for image_id in batch.image_ids]
            record = {"step": self.state.step, "epoch": batches.epoch, "rank": self.group.rank, "image_ids": ids}
            self.trace_file.write(json.dumps(record) + "\n")

    @contextmanager
    def scored_weights(self) -> Iterator[None]:
        """Put the weights that are scored and exported in place: the averages when there are any."""
        if self.ema is None:
            yield
            return
        with self.ema.swapped(self.model.sam3):
            yield
