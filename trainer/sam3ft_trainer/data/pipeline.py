"""The loaders: an ordered, bounded, deterministic pipeline of threads from files to batches.

No worker processes: decoding and resizing release the interpreter lock, nothing is pickled, nothing needs /dev/shm, and
a fork after a store client has been used would hang.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, tee
from math import ceil
from types import TracebackType
from typing import Self

from torch import Tensor

from sam3ft_api.errors import InvalidDataset
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.collate import collate
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.fetch import FetchAhead, Reading
from sam3ft_trainer.data.memory import BatchMemory
from sam3ft_trainer.data.order import Window, step_of_cursor, windows
from sam3ft_trainer.data.prefetch import OrderedPrefetch
from sam3ft_trainer.data.report import allowed
from sam3ft_trainer.data.sample import Sample, evaluation_sample, train_sample
from sam3ft_trainer.tensors import Batch

MAX_WAITING_STEPS = 4
_Task = tuple[int, int, Tensor, Reading]


@dataclass(frozen=True, slots=True)
class StepBatches:
    """One rank's part of one optimizer step.

    Attributes:
        step: counted from 0.
        epoch: counted from 0.
        cursor: images used before this step by all ranks.
        cursor_after: images used once it is done.
        image_ids: of the whole global batch, in order, the same on every rank.
        micro_batches: this rank's; the same number on every rank, dummies without images at the end of a share.
        quarantined: images of this rank's share that could not be read, with the reason.
        quarantined_sha256: hex digests of their files, in the same order.
        dropped_small: objects of this rank's share below the size filter.
        dropped_crowded: objects of this rank's share in pairs above the count filter.
        num_bytes: of pixels and masks.
    """

    step: int
    epoch: int
    cursor: int
    cursor_after: int
    image_ids: tuple[int, ...]
    micro_batches: tuple[Batch, ...]
    quarantined: tuple[tuple[int, str], ...]
    quarantined_sha256: tuple[str, ...]
    dropped_small: int
    dropped_crowded: int
    num_bytes: int


def decode_threads(config: TrainingConfig, *, processes_here: int) -> int:
    """Return the loader threads of one process: the setting, else this process's share of the cores, at least 1."""
    if config.runtime.decode_threads is not None:
        return config.runtime.decode_threads
    return max(1, len(os.sched_getaffinity(0)) // processes_here)


class TrainLoader:
    """Yields the steps of one rank from a cursor on, prepared ahead by threads.

    What it yields depends on data, configuration, cursor, rank, world size and micro-batch only, never on timing.
    Steps that wait, images that are being decoded and files that are being fetched stay within `runtime.prefetch_bytes`
    together, and at most MAX_WAITING_STEPS wait; beyond it only the step that is being put together goes on. Use it as
    a context manager, or call `close`.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        config: TrainingConfig,
        *,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        cursor: int = 0,
        steps: int | None = None,
        threads: int = 1,
    ) -> None:
        """Prepare; threads start with the first step that is asked for.

        Args:
            dataset: train.
            config: batch size, seed, resolution, bounds, prefetch bytes.
            micro_batch: images per forward pass.
            rank: of this process.
            world_size: processes.
            cursor: images used so far, where a step ended.
            steps: stop after so many; None goes on for ever.
            threads: that read and decode; see `decode_threads`.

        Raises:
            ValueError: no step starts at `cursor`.
        """
        step_of_cursor(cursor, len(dataset), config.scratch.train_batch_size)
        self._dataset, self._config = dataset, config
        self._micro_batch, self._rank, self._world_size = micro_batch, rank, world_size
        self._limit = config.runtime.prefetch_bytes
        self._bad_ids: set[int] = set()
        self._queue: queue.SimpleQueue[StepBatches | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting_steps = self._waiting_bytes = 0
        self._is_closed = self._is_exhausted = False
        upcoming = windows(
            dataset.image_ids,
            seed=config.scratch.seed_value,
            global_batch=config.scratch.train_batch_size,
            cursor=cursor,
        )
        # All copies are used by the assembler thread alone; the second one runs ahead, the third one further ahead.
        self._windows, ahead, further = tee(islice(upcoming, steps), 3)
        self._buffers: deque[Tensor] = deque()
        self._memory = BatchMemory()
        self._fetch = FetchAhead(
            dataset,
            (image_id for window in further for piece in self._pieces(window) for image_id in piece),
            has_room=lambda fetched: fetched + self._prefetch.num_bytes + self._waiting_bytes < self._limit,
        )
        self._prefetch = OrderedPrefetch(
            self._load,
            self._tasks(ahead),
            threads=threads,
            has_room=lambda started: started + self._fetch.num_bytes + self._waiting_bytes < self._limit,
        )
        self._assembler = threading.Thread(target=self._assemble, name="sam3ft-loader", daemon=True)

    def __iter__(self) -> Self:
        """Return the loader; it can be gone through once."""
        return self

    def __next__(self) -> StepBatches:
        """Return the next step; waits for it.

        Raises:
            StopIteration: after the last step, or when closed.
            InvalidDataset: more images cannot be read than `data.max_bad` allows.
            StorageUnavailable, StorageDenied: the images cannot be reached any more.
        """
        if self._is_exhausted or self._is_closed:
            raise StopIteration
        if self._assembler.ident is None:
            self._assembler.start()
        item = self._queue.get()
        if isinstance(item, StepBatches):
            with self._room:
                self._waiting_steps -= 1
                self._waiting_bytes -= item.num_bytes
                self._room.notify()
            return item
        self._is_exhausted = True
        if item is None or self._is_closed:  # what fails because the loader is being closed is no failure
            raise StopIteration
        raise item

    def close(self) -> None:
        """Stop, and join all threads but those whose request a store has not answered; safe to call twice."""
        with self._room:
            self._is_closed = True
            self._room.notify()
        self._fetch.close()
        self._prefetch.close()
        if self._assembler.ident is not None:
            self._assembler.join()

    def __enter__(self) -> Self:
        """Return the loader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _pieces(self, window: Window) -> tuple[tuple[int, ...], ...]:
        return window.micro_batches(self._rank, world_size=self._world_size, size=self._micro_batch)

    def _tasks(self, ahead: Iterator[Window]) -> Iterator[tuple[_Task, int]]:
        """Yield what the threads do; every image is written into its place in the batch, so nothing is copied later."""
        size = self._config.scratch.resolution
        for window in ahead:
            for piece in filter(None, self._pieces(window)):
                buffer = self._memory.take(len(piece), size, size, 3).permute(0, 3, 1, 2)
                self._buffers.append(buffer)
                for image_id, place in zip(piece, buffer, strict=True):
                    task = (window.epoch, image_id, place, self._fetch.next())
                    yield task, expected_bytes(self._dataset, image_id, self._config)

    def _load(self, task: _Task) -> Sample:
        epoch, image_id, place, reading = task
        return train_sample(self._dataset, image_id, epoch=epoch, config=self._config, out_3SS=place, content=reading)

    def _assemble(self) -> None:
        try:
            for window in self._windows:
                if not self._wait_for_room():
                    return
                step = self._step(window)
                with self._room:
                    self._waiting_steps += 1
                    self._waiting_bytes += step.num_bytes
                self._queue.put(step)
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: the consumer raises it
            self._queue.put(error)

    def _wait_for_room(self) -> bool:
        """Wait until a further step may be put together; False when the loader is closed."""
        with self._room:
            self._room.wait_for(
                lambda: (
                    self._is_closed
                    or self._waiting_steps == 0
                    or (self._waiting_steps < MAX_WAITING_STEPS and self._waiting_bytes < self._limit)
                )
            )
            return not self._is_closed

    def _step(self, window: Window) -> StepBatches:
        samples = [[self._prefetch.next() for _ in piece] for piece in self._pieces(window)]
        flat = [sample for piece in samples for sample in piece]
        self._count_bad(flat)
        size, masks = self._config.scratch.resolution, self._config.scratch.enable_segmentation
        return StepBatches(
            step=window.step,
            epoch=window.epoch,
            cursor=window.cursor,
            cursor_after=window.cursor_after,
            image_ids=window.image_ids,
            micro_batches=tuple(
                collate(piece, size=size, masks=masks, pixels_I3SS=self._buffers.popleft() if piece else None)
                for piece in samples
            ),
            quarantined=tuple((sample.image_id, str(sample.bad)) for sample in flat if sample.bad is not None),
            quarantined_sha256=tuple(sample.bad.sha256 for sample in flat if sample.bad is not None),
            dropped_small=sum(sample.dropped_small for sample in flat),
            dropped_crowded=sum(sample.dropped_crowded for sample in flat),
            num_bytes=sum(sample.num_bytes for sample in flat),
        )

    def _count_bad(self, samples: list[Sample]) -> None:
        bad = [sample for sample in samples if sample.bad is not None]
        self._bad_ids.update(sample.image_id for sample in bad)
        limit = allowed(self._config.data.max_bad, len(self._dataset))
        if len(self._bad_ids) > limit:
            raise InvalidDataset(
                f"{len(self._bad_ids)} images of train cannot be read, and data.max_bad allows {limit}; the last is "
                f"image {bad[-1].image_id}: {bad[-1].bad}. Mend or remove them, or raise data.max_bad to leave them out"
            )


class EvalLoader:
    """Yields one rank's share of a split as batches: images in id order, all categories of an image together.

    Each image is on exactly one rank; a rank may have none. Can be gone through again. An image that could not be read
    comes without pairs; `quarantined` says why.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        config: TrainingConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
    ) -> None:
        """Prepare.

        Args:
            dataset: the split to score.
            config: resolution, `evaluation.batch_size`, prefetch bytes.
            rank: of this process.
            world_size: processes.
            threads: that read and decode.
        """
        self._dataset, self._config, self._threads = dataset, config, threads
        self.image_ids = dataset.image_ids[rank::world_size]
        self.quarantined: dict[int, str] = {}

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return ceil(len(self.image_ids) / self._config.evaluation.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, targets without masks: ground truth of the metrics is in original pixels.

        Raises:
            InvalidDataset: more images cannot be read than `data.max_bad` allows.
        """
        size, limit = self._config.scratch.resolution, self._config.runtime.prefetch_bytes
        fetch = FetchAhead(self._dataset, iter(self.image_ids), has_room=lambda fetched: fetched < limit)
        prefetch = OrderedPrefetch(
            lambda task: evaluation_sample(self._dataset, task[0], config=self._config, content=task[1]),
            (((image_id, fetch.next()), 3 * size * size) for image_id in self.image_ids),
            threads=self._threads,
            has_room=lambda started: started + fetch.num_bytes < limit,
        )
        try:
            for start in range(0, len(self.image_ids), self._config.evaluation.batch_size):
                piece = self.image_ids[start : start + self._config.evaluation.batch_size]
                samples = [prefetch.next() for _ in piece]
                self._count_bad(samples)
                yield collate(samples, size=size, masks=False)
        finally:
            fetch.close()
            prefetch.close()

    def _count_bad(self, samples: list[Sample]) -> None:
        for sample in samples:
            if sample.bad is not None:
                self.quarantined[sample.image_id] = str(sample.bad)
        limit = allowed(self._config.data.max_bad, len(self._dataset))
        if len(self.quarantined) > limit:
            image_id, reason = next(reversed(self.quarantined.items()))
            raise InvalidDataset(
                f"{len(self.quarantined)} images of {self._dataset.split} cannot be read, and data.max_bad allows "
                f"{limit}; the last is image {image_id}: {reason}. Mend or remove them, or raise data.max_bad to leave "
                "them out"
            )


def expected_bytes(dataset: CocoDataset, image_id: int, config: TrainingConfig) -> int:
    """Return the bytes of pixels and masks that a prepared training image holds at most."""
    area = config.scratch.resolution**2
    span = dataset.index.rows_of(dataset.index.row_of_image(image_id))
    return area * (3 + (span.stop - span.start if config.scratch.enable_segmentation else 0))
