"""Timed training steps of one case of the GPU benchmark, with ready batches in the loader's place."""

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.gpu_cases import RECOMPUTED, Case, Settings
from torch import Tensor

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.loss import total
from sam3ft_trainer.loss.matching import start_matching
from sam3ft_trainer.loss.total import local_counts
from sam3ft_trainer.model.compiling import LayerCompiler, why_not_compiled
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.load import LoadedModel
from sam3ft_trainer.model.text import PhraseCache
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run.optim import build_optimizer
from sam3ft_trainer.run.prefetch import DeviceFeed
from sam3ft_trainer.run.spans import Spans
from sam3ft_trainer.run.step import StepNumbers, Stepper, StepResult
from sam3ft_trainer.run.text import CachedText, LiveText, TextSource
from sam3ft_trainer.tensors import Batch, Targets

STEPS_OF_SCHEDULE = 1_000_000
"""So many that the cool-down is never reached."""


class Steps:
    """The training loop of one case, with ready batches in the loader's place."""

    def __init__(
        self, loaded: LoadedModel, cache: PhraseCache | None, settings: Settings, case: Case, config: TrainingConfig
    ) -> None:
        """Build what a run builds: frozen parts, model, optimizer, stepper, feed; and two batches to alternate.

        Args:
            loaded: the model on the device; its weights change.
            cache: features of all phrases when the text encoder is frozen.
            settings: what all cases share.
            case: sizes of the micro-batch, and what is recomputed.
            config: the same as a run's settings.
        """
        sam3, device = loaded.sam3, settings.device
        freeze_parts(sam3, config.model.freeze, task=config.task, geometry_cls=config.model.geometry_cls)
        compiler = None if why_not_compiled(config.runtime.compile, device) else LayerCompiler()
        checkpointed = RECOMPUTED[case.checkpointing]
        model = TrainingModel(sam3, config.model, checkpointed=checkpointed, compiler=compiler).train()
        text: TextSource = LiveText(model, loaded.tokenizer, device)
        if cache is not None:
            text = CachedText(cache, device)
        self._settings, self._case = settings, case
        self._spans = Spans()
        optimizer = build_optimizer(sam3, config.optim, fused=device.type == "cuda")
        self._stepper = Stepper(model, optimizer, config, device=device, world_size=1, spans=self._spans)
        self._feed = DeviceFeed(device, text.inputs)
        self._clock = Clock(device)
        self._batches = itertools.cycle([synthetic_batch(case, settings, seed=seed) for seed in (0, 1)])
        self._done = 0

    def time(self) -> dict[str, Any]:
        """Do warm-up and timed steps, and return times and shares of the timed ones."""
        clock, warmup, steps = self._clock, self._settings.warmup, self._settings.steps
        with timed_matching(clock) as matchings:
            marks, numbers = self._loop(warmup + steps, warmup=warmup)
        clock.finish()
        starts, ends = [start for start, _ in marks[warmup:]], [end for _, end in marks[warmup - 1 :]]
        whole_s = clock.seconds(ends[0], ends[-1])
        idle = [clock.seconds(end, start) for end, start in zip(ends[:-1], starts, strict=True)]
        matching = [clock.seconds(start, end) for start, end in matchings[-steps:]]
        return {
            "images_per_s": steps * self._case.images / whole_s,
            "step_s": whole_s / steps,
            "step_median_s": statistics.median(clock.seconds(start, end) for start, end in marks[warmup:]),
            "idle_share": sum(idle) / whole_s,
            "idle_s": idle,
            "matching_share": sum(matching) / whole_s,
            "host_s": {name: seconds / steps for name, seconds in self._spans.take().items()},
            "loss": numbers[-1].loss,
            "skipped": sum(not entry.applied for entry in numbers),
        }

    def syncs(self) -> list[str]:
        """Do one more step, and return the places in it that made the host wait for the device."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self._loop(1)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return [f"{entry.filename}:{entry.lineno}" for entry in caught if "synchronizing" in str(entry.message)]

    def _loop(self, steps: int, *, warmup: int = 0) -> "tuple[list[tuple[Mark, Mark]], list[StepNumbers]]":
        """Do `steps` steps in the order of a run; return start and end of each on the device, and their numbers.

        The host's spans begin anew after `warmup` of them.
        """
        marks: list[tuple[Mark, Mark]] = []
        numbers: list[StepNumbers] = []
        previous: StepResult | None = None
        for index in range(steps):
            if index == warmup:
                self._spans.take()
            batch = next(self._batches)
            with self._spans.span("data"):
                on_device = self._feed.put([batch])
            with self._spans.span("agree"):
                counts = local_counts(batch.targets, segmentation=self._case.task == "segmentation")
            self._feed.ready(on_device)
            start = self._clock.mark()
            result = self._stepper.step(
                on_device, counts, step=self._done, total_steps=STEPS_OF_SCHEDULE, num_images=self._case.images
            )
            marks.append((start, self._clock.mark()))
            self._done += 1
            if previous is not None:
                numbers.append(previous.read())
            previous = result
        if previous is not None:
            numbers.append(previous.read())
        return marks, numbers


Mark = float | torch.cuda.Event
"""A point in the device's queue; on the CPU a time in seconds."""


class Clock:
    """Times as the device passes them: CUDA events; on the CPU the host's clock."""

    def __init__(self, device: torch.device) -> None:
        """Tell the time of `device`."""
        self._device = device

    def mark(self) -> Mark:
        """Return a mark behind everything that has been queued so far."""
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no annotation there
        event.record(torch.cuda.current_stream(self._device))
        return event

    def finish(self) -> None:
        """Return when the device has passed every mark."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def seconds(self, start: Mark, end: Mark) -> float:
        """Return the time between two marks; call `finish` before."""
        if isinstance(start, float) or isinstance(end, float):
            assert isinstance(start, float)  # noqa: S101 - marks of one clock are of one kind; narrows the type
            assert isinstance(end, float)  # noqa: S101 - the same
            return end - start
        return float(start.elapsed_time(end)) / 1000.0


@contextmanager
def timed_matching(clock: Clock) -> Iterator[list[tuple[Mark, Mark]]]:
    """Mark, in every loss, where the device has done all that was queued and where the matches arrive."""
    found: list[tuple[Mark, Mark]] = []

    def start(*arguments: Any, **settings: Any) -> Callable[[], Any]:
        finish = start_matching(*arguments, **settings)

        def timed() -> Any:
            before = clock.mark()
            matches = finish()
            found.append((before, clock.mark()))
            return matches

        return timed

    with patch.object(total, "start_matching", start):
        yield found


def phrase_names(count: int) -> tuple[str, ...]:
    """Return that many different phrases."""
    return tuple(f"object of kind {number}" for number in range(count))


def synthetic_batch(case: Case, settings: Settings, *, seed: int) -> Batch:
    """Return a micro-batch as the loader hands it over: random pixels and boxes, every mask its box."""
    generator = torch.Generator().manual_seed(seed)
    side, pairs = settings.resolution, case.images * case.phrases
    pixels_I3SS = torch.randint(0, 256, (case.images, 3, side, side), dtype=torch.uint8, generator=generator)
    centres = torch.rand(pairs * settings.objects, 2, generator=generator) * 0.6 + 0.2
    boxes_N4 = torch.cat([centres, torch.rand(len(centres), 2, generator=generator) * 0.2 + 0.05], dim=1)
    num_boxes_B = torch.full((pairs,), settings.objects, dtype=torch.int64)
    targets = Targets(boxes_N4, num_boxes_B)
    if case.task == "segmentation":
        masks_NSS = filled_boxes(boxes_N4, side)
        targets = Targets(boxes_N4, num_boxes_B, masks_NSS, masks_NSS.flatten(1).any(1))
    index_B = torch.arange(pairs)
    return Batch(
        pixels_I3SS=pixels_I3SS,
        phrases=phrase_names(case.phrases),
        img_idx_B=index_B // case.phrases,
        txt_idx_B=index_B % case.phrases,
        targets=targets,
        image_ids=tuple(range(case.images)),
        category_ids=tuple((index_B % case.phrases).tolist()),
    )


def filled_boxes(boxes_N4: Tensor, side: int) -> Tensor:
    """Return uint8 [N, side, side] masks that are the boxes themselves, at least one pixel each."""
    masks_NSS = torch.zeros(len(boxes_N4), side, side, dtype=torch.uint8)
    for mask_SS, (x, y, w, h) in zip(masks_NSS, (boxes_N4 * side).int().tolist(), strict=True):
        mask_SS[max(0, y - h // 2) : y + h // 2 + 1, max(0, x - w // 2) : x + w // 2 + 1] = 1
    return masks_NSS
