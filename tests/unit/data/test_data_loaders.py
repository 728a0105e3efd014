"""The loaders: the same batches whatever the threads, ranks and interruptions; bounded; cleanly closed."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sam3ft_api.errors import StorageUnavailable
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data import sample as sample_module
from sam3ft_trainer.data.collate import collate
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.pipeline import EvalLoader, StepBatches, TrainLoader, decode_threads
from sam3ft_trainer.data.prefetch import OrderedPrefetch
from sam3ft_trainer.data.sample import train_sample
from sam3ft_trainer.tensors import Batch

Write = Callable[..., Path]
Configured = Callable[..., TrainingConfig]
Many = Callable[[int], dict[str, Any]]
AUGMENT = {"horizontal_flip": 0.5, "quarter_turns": True, "crop": 0.5, "color": 0.2}


@pytest.fixture
def config(many_images: Many, write_split: Write, configured: Configured) -> TrainingConfig:
    """Eleven images with masks, batches of 4 (a short last one), every augmentation."""
    write_split(many_images(11))
    return configured(scratch={"enable_segmentation": True}, augment=AUGMENT)


@pytest.fixture
def dataset(config: TrainingConfig) -> CocoDataset:
    return open_dataset(config, "train")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def steps_of(dataset: CocoDataset, config: TrainingConfig, **options: Any) -> list[StepBatches]:
    with TrainLoader(dataset, config, **{"micro_batch": 2, "steps": 7, **options}) as loader:
        return list(loader)


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    targets = batch.targets
    assert targets.masks_NSS is not None
    assert targets.mask_valid_N is not None
    return [
        batch.pixels_I3SS,
        batch.img_idx_B,
        batch.txt_idx_B,
        targets.boxes_N4,
        targets.num_boxes_B,
        targets.masks_NSS,
        targets.mask_valid_N,
    ]


def assert_same(expected: list[StepBatches], actual: list[StepBatches]) -> None:
    assert [(s.step, s.cursor, s.image_ids) for s in expected] == [(s.step, s.cursor, s.image_ids) for s in actual]
    for left, right in zip(expected, actual, strict=True):
        for one, other in zip(left.micro_batches, right.micro_batches, strict=True):
            assert (one.phrases, one.image_ids, one.category_ids) == (
                other.phrases,
                other.image_ids,
                other.category_ids,
            )
            assert all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))


def test_the_number_of_threads_and_the_room_change_nothing(dataset: CocoDataset, config: TrainingConfig) -> None:
    expected = steps_of(dataset, config)

    small = config.model_copy(update={"runtime": config.runtime.model_copy(update={"prefetch_bytes": 1 << 20})})
    assert_same(expected, steps_of(dataset, config, threads=4))
    assert_same(expected, steps_of(dataset, small, threads=3))


def test_memory_that_is_used_again_changes_nothing(
    many_images: Many, write_split: Write, configured: Configured
) -> None:
    folder = write_split(many_images(11))
    (folder / "3.jpg").write_bytes(b"no image")
    config = configured(augment={**AUGMENT, "min_scale": 0.3}, data={"max_bad": 0.5})
    dataset = open_dataset(config, "train")
    expected = [batch.pixels_I3SS for step in steps_of(dataset, config, steps=21) for batch in step.micro_batches]

    places: set[int] = set()
    with TrainLoader(dataset, config, micro_batch=2, steps=21) as loader:
        for step in loader:
            for batch in step.micro_batches:
                places.add(batch.pixels_I3SS.data_ptr())
                assert torch.equal(expected.pop(0), batch.pixels_I3SS)
                del batch
            del step

    assert not expected
    assert len(places) < 42


def test_a_loader_that_starts_at_a_cursor_goes_on_where_another_stopped(
    dataset: CocoDataset, config: TrainingConfig
) -> None:
    whole = steps_of(dataset, config)

    first = steps_of(dataset, config, steps=4)
    rest = steps_of(dataset, config, steps=3, cursor=first[-1].cursor_after)

    assert_same(whole, first + rest)


def test_steps_have_a_short_last_window_and_every_image_once(dataset: CocoDataset, config: TrainingConfig) -> None:
    steps = steps_of(dataset, config, steps=6)

    assert [len(step.image_ids) for step in steps] == [4, 4, 3, 4, 4, 3]
    assert [step.epoch for step in steps] == [0, 0, 0, 1, 1, 1]
    for epoch in (0, 1):
        assert sorted(dataset.image_ids) == sorted(i for s in steps if s.epoch == epoch for i in s.image_ids)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_images_look_the_same_on_any_number_of_ranks(world: int, dataset: CocoDataset, config: TrainingConfig) -> None:
    alone = steps_of(dataset, config, steps=3, micro_batch=1)
    ranks = [steps_of(dataset, config, steps=3, micro_batch=2, rank=r, world_size=world) for r in range(world)]

    for number, expected in enumerate(alone):
        parts = [rank[number] for rank in ranks]
        assert all(part.image_ids == expected.image_ids for part in parts)
        assert len({len(part.micro_batches) for part in parts}) == 1
        pixels = {
            image_id: batch.pixels_I3SS[place]
            for part in parts
            for batch in part.micro_batches
            for place, image_id in enumerate(batch.image_ids)
        }
        assert sorted(pixels) == sorted(expected.image_ids)
        for batch in expected.micro_batches:
            assert torch.equal(batch.pixels_I3SS[0], pixels[batch.image_ids[0]])


def test_a_rank_without_images_gets_dummies_without_weight(dataset: CocoDataset, config: TrainingConfig) -> None:
    (step,) = steps_of(dataset, config, steps=1, rank=5, world_size=7, micro_batch=1)

    (batch,) = step.micro_batches
    assert batch.image_ids == ()
    assert batch.pixels_I3SS.shape == (1, 3, 56, 56)
    assert batch.pixels_I3SS.max() == 0
    assert batch.img_idx_B.numel() == batch.targets.num_boxes_B.numel() == batch.targets.boxes_N4.numel() == 0
    assert batch.targets.masks_NSS is not None
    assert batch.targets.masks_NSS.shape == (0, 56, 56)


def test_shapes_and_types_are_those_of_a_batch(dataset: CocoDataset, config: TrainingConfig) -> None:
    for step in steps_of(dataset, config):
        for batch in step.micro_batches:
            count = int(batch.targets.num_boxes_B.sum())
            types = [tensor.dtype for tensor in tensors_of(batch)]
            int64, uint8 = torch.int64, torch.uint8
            assert types == [uint8, int64, int64, torch.float32, int64, uint8, torch.bool]
            assert batch.pixels_I3SS.shape == (len(batch.image_ids), 3, 56, 56)
            assert batch.pixels_I3SS.permute(0, 2, 3, 1).is_contiguous()
            assert batch.targets.boxes_N4.shape == (count, 4)
            assert tensors_of(batch)[5].shape == (count, 56, 56)
            assert tensors_of(batch)[5].max() <= 1
            assert len(set(batch.phrases)) == len(batch.phrases)
            assert len(batch.category_ids) == len(batch.img_idx_B) == len(batch.txt_idx_B)
            assert batch.targets.exhaustive_B is None


def test_pairs_that_are_not_exhaustive_are_marked_in_the_batch(
    many_images: Many, write_split: Write, configured: Configured
) -> None:
    write_split(many_images(4))
    config = configured(data={"exhaustive": ["dog"]})

    with TrainLoader(open_dataset(config, "train"), config, micro_batch=4, steps=1) as loader:
        (batch,) = next(loader).micro_batches

    assert batch.targets.exhaustive_B is not None
    assert [category == 2 for category in batch.category_ids] == batch.targets.exhaustive_B.tolist()


def test_another_epoch_gives_another_picture(dataset: CocoDataset, config: TrainingConfig) -> None:
    first = train_sample(dataset, 10, epoch=0, config=config)

    assert torch.equal(first.pixels_3SS, train_sample(dataset, 10, epoch=0, config=config).pixels_3SS)
    assert any(
        not torch.equal(first.pixels_3SS, train_sample(dataset, 10, epoch=epoch, config=config).pixels_3SS)
        for epoch in (1, 2)
    )


def test_equal_phrases_share_a_text_row_within_a_batch_only(dataset: CocoDataset, config: TrainingConfig) -> None:
    samples = [train_sample(dataset, image_id, epoch=0, config=config) for image_id in (10, 11)]

    batch = collate(samples, size=56, masks=True)

    assert batch.phrases == ("cat", "dog")
    assert batch.txt_idx_B.tolist() == [0, 1, 0, 1]
    assert batch.img_idx_B.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("resolution", "most_steps"), [(56, 4), (224, 2), (448, 1)])
def test_what_is_read_ahead_stays_within_its_room(
    resolution: int, most_steps: int, many_images: Many, write_split: Write, configured: Configured
) -> None:
    """At 224 px a step of 4 images holds 0.6 MB of pixels, at 448 px 2.4 MB; the room is 1 MiB."""
    write_split(many_images(11))
    small = configured(resolution=resolution, runtime={"prefetch_bytes": 1 << 20})
    with TrainLoader(open_dataset(small, "train"), small, micro_batch=2, threads=2) as loader:
        next(loader)
        time.sleep(0.5)

        assert loader._waiting_steps == most_steps
        assert loader._waiting_bytes == most_steps * 4 * 3 * resolution**2 or most_steps > 1


def test_a_loader_is_closed_in_the_middle_and_twice(dataset: CocoDataset, config: TrainingConfig) -> None:
    loader = TrainLoader(dataset, config, micro_batch=2, threads=3)
    next(loader)

    loader.close()
    loader.close()

    with pytest.raises(StopIteration):
        next(loader)


def test_an_unused_loader_starts_no_thread(dataset: CocoDataset, config: TrainingConfig) -> None:
    before = threading.active_count()
    loader = TrainLoader(dataset, config, micro_batch=2)

    assert threading.active_count() == before
    loader.close()


def test_an_error_of_a_thread_reaches_the_loop(
    dataset: CocoDataset, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> bytes:
        raise StorageUnavailable("the disk is gone")

    monkeypatch.setattr(CocoDataset, "read_image", fail)

    with TrainLoader(dataset, config, micro_batch=2) as loader:
        with pytest.raises(StorageUnavailable, match="the disk is gone"):
            next(loader)
        with pytest.raises(StopIteration):
            next(loader)


def test_a_cursor_of_another_batch_size_is_refused(dataset: CocoDataset, config: TrainingConfig) -> None:
    with pytest.raises(ValueError, match="another global batch"):
        TrainLoader(dataset, config, micro_batch=2, cursor=3)


@pytest.mark.parametrize("world", [1, 2, 4, 13])
def test_evaluation_shows_every_image_on_one_rank_in_id_order(
    world: int, dataset: CocoDataset, config: TrainingConfig
) -> None:
    loaders = [EvalLoader(dataset, config, rank=rank, world_size=world, threads=2) for rank in range(world)]

    shown = [[image_id for batch in loader for image_id in batch.image_ids] for loader in loaders]

    assert all(ids == sorted(ids) for ids in shown)
    assert sorted(image_id for ids in shown for image_id in ids) == list(dataset.image_ids)
    assert [len(loader) for loader in loaders] == [len(ids) for ids in shown]


def test_evaluation_asks_every_category_and_can_be_repeated(dataset: CocoDataset, config: TrainingConfig) -> None:
    several = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"batch_size": 4})})
    loader = EvalLoader(dataset, several)

    first, second = list(loader), list(loader)

    assert [len(batch.image_ids) for batch in first] == [4, 4, 3] == [len(batch.image_ids) for batch in second]
    assert len(loader) == 3
    for one, other in zip(first, second, strict=True):
        assert one.category_ids == (1, 2) * len(one.image_ids)
        assert one.targets.masks_NSS is None
        assert torch.equal(one.pixels_I3SS, other.pixels_I3SS)


def test_evaluation_may_be_left_early(dataset: CocoDataset, config: TrainingConfig) -> None:
    before = threading.active_count()
    iterator = iter(EvalLoader(dataset, config, threads=2))
    next(iterator)
    during = threading.active_count()

    iterator.close()  # type: ignore[attr-defined]

    assert before < during
    assert before == threading.active_count()


def test_prefetched_results_come_in_order_whatever_finishes_first() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    prefetch = OrderedPrefetch(
        slow_first, ((number, 1) for number in range(30)), threads=4, has_room=lambda size: size < 8
    )

    assert [number * number for number in range(30)] == [prefetch.next() for _ in range(30)]
    with pytest.raises(StopIteration):
        prefetch.next()
    prefetch.close()


def test_prefetch_starts_no_more_than_there_is_room_for() -> None:
    started: list[int] = []
    prefetch = OrderedPrefetch(
        started.append,
        ((number, 3) for number in range(50)),
        threads=1,
        has_room=lambda size: size < 9,
    )

    prefetch.next()
    prefetch.close()

    assert len(started) <= 3


def test_loader_threads_are_the_setting_or_the_share_of_the_cores(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))

    assert [decode_threads(configured(), processes_here=count) for count in (1, 3, 16)] == [8, 2, 1]
    assert decode_threads(configured(runtime={"decode_threads": 5}), processes_here=2) == 5


def test_masks_cut_away_by_a_crop_take_their_boxes_along(
    many_images: Many, write_split: Write, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corner of the box is left in the crop, but no pixel of the triangle is."""
    document = many_images(1)
    document["annotations"][0] |= {"bbox": [10, 10, 20, 20], "segmentation": [[10, 10, 30, 10, 10, 30]]}
    write_split(document)
    config = configured(scratch={"enable_segmentation": True})
    plan = sample_module.plain_plan(56, height=40, width=60)

    monkeypatch.setattr(
        sample_module, "draw_plan", lambda *_, **__: type(plan)(size=56, crop_xyxy=(26, 26, 60, 40), side=56)
    )
    cut = train_sample(open_dataset(config, "train"), 10, epoch=0, config=config)

    assert [len(pair.boxes_N4) for pair in cut.pairs] == [0, 0]
    assert cut.dropped_small == 1
