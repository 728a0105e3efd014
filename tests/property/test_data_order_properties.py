"""The order of the data, for any number of images, processes, micro-batches and interruptions."""

from itertools import islice
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ft_trainer.data.order import Window, epoch_order, step_of_cursor, steps_per_epoch, total_steps, windows

IDS = st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=60, unique=True)
SEEDS = st.integers(0, 2**63 - 1)
BATCHES = st.integers(1, 70)
WORLDS = st.integers(1, 17)


@given(IDS, SEEDS, st.integers(0, 50), st.randoms())
def test_an_epoch_holds_every_image_once_in_an_order_that_the_input_order_does_not_change(
    ids: list[int], seed: int, epoch: int, random: Random
) -> None:
    shuffled = random.sample(ids, len(ids))

    order = epoch_order(ids, seed, epoch).tolist()

    assert sorted(ids) == sorted(order)
    assert order == epoch_order(shuffled, seed, epoch).tolist()


@given(IDS, SEEDS, st.integers(0, 50))
def test_an_added_image_does_not_reshuffle_the_others(ids: list[int], seed: int, epoch: int) -> None:
    before = epoch_order(ids[:-1], seed, epoch).tolist()

    after = epoch_order(ids, seed, epoch).tolist()

    assert before == [image_id for image_id in after if image_id != ids[-1]]


@given(IDS, SEEDS, BATCHES, WORLDS, st.integers(1, 9))
def test_ranks_and_micro_batches_share_each_window_exactly(
    ids: list[int], seed: int, batch: int, world: int, size: int
) -> None:
    for window in islice(windows(ids, seed=seed, global_batch=batch), 2 * steps_per_epoch(len(ids), batch)):
        shares = [window.micro_batches(rank, world_size=world, size=size) for rank in range(world)]

        assert len({len(pieces) for pieces in shares}) == 1
        assert all(len(piece) <= size for pieces in shares for piece in pieces)
        assert any(pieces[-1] for pieces in shares)
        flat = [[image_id for piece in pieces for image_id in piece] for pieces in shares]
        assert sorted(window.image_ids) == sorted(image_id for share in flat for image_id in share)
        assert all(share == list(window.image_ids[rank::world]) for rank, share in enumerate(flat))


@given(IDS, SEEDS, BATCHES, st.integers(1, 4))
def test_each_image_of_each_epoch_is_used_exactly_once(ids: list[int], seed: int, batch: int, epochs: int) -> None:
    steps = epochs * steps_per_epoch(len(ids), batch)

    history = list(islice(windows(ids, seed=seed, global_batch=batch), steps))

    for epoch in range(epochs):
        used = [image_id for window in history if window.epoch == epoch for image_id in window.image_ids]
        assert sorted(ids) == sorted(used)
    assert history[-1].cursor_after == epochs * len(ids)
    assert [window.step for window in history] == list(range(steps))


@given(IDS, SEEDS, BATCHES, st.lists(st.tuples(st.integers(0, 12), WORLDS), min_size=1, max_size=6))
def test_any_sequence_of_interruptions_and_world_sizes_gives_the_undisturbed_steps(
    ids: list[int], seed: int, batch: int, attempts: list[tuple[int, int]]
) -> None:
    """Every attempt runs some steps, commits some of them, and dies; the next one goes on with another world size."""
    cursor = 0
    committed: list[Window] = []
    for steps, world in attempts:
        done = list(islice(windows(ids, seed=seed, global_batch=batch, cursor=cursor), steps))
        kept = done[: (steps * 2) // 3]
        seen = [sorted(image_id for rank in range(world) for image_id in window.share(rank, world)) for window in kept]
        assert seen == [sorted(window.image_ids) for window in kept]
        committed += kept
        cursor = committed[-1].cursor_after if committed else 0

    assert committed == list(islice(windows(ids, seed=seed, global_batch=batch), len(committed)))


@given(st.integers(1, 500), BATCHES, st.integers(0, 400))
def test_the_step_of_a_cursor_is_the_step_that_starts_there(images: int, batch: int, steps: int) -> None:
    cursor = sum(
        len(window.image_ids) for window in islice(windows(range(images), seed=1, global_batch=batch), min(steps, 40))
    )

    assert min(steps, 40) == step_of_cursor(cursor, images, batch)


@given(st.integers(2, 500), st.integers(2, 70), st.data())
def test_a_cursor_within_a_step_is_refused(images: int, batch: int, data: st.DataObject) -> None:
    starts = {*range(0, images, batch)}
    inside = [offset for offset in range(images) if offset not in starts]
    offset = data.draw(st.sampled_from(inside or [1]))

    if inside:
        with pytest.raises(ValueError, match="made with another global batch"):
            step_of_cursor(3 * images + offset, images, batch)


@given(st.integers(1, 500), BATCHES, st.integers(1, 20))
def test_whole_epochs_take_whole_numbers_of_steps(images: int, batch: int, epochs: int) -> None:
    assert epochs * steps_per_epoch(images, batch) == total_steps(images, batch, epochs)


def test_a_part_of_an_epoch_is_rounded_up_to_a_step() -> None:
    assert [total_steps(10, 4, epochs) for epochs in (0.01, 0.4, 0.5, 1, 1.3, 2.5)] == [1, 1, 2, 3, 4, 8]


def test_the_order_is_fixed_for_ever() -> None:
    """A change here would silently change what resumed runs see: raise ORDER_VERSION with it."""
    assert epoch_order(range(12), 123, 0).tolist() == [11, 7, 0, 9, 1, 10, 6, 2, 3, 4, 8, 5]


def test_orders_of_epochs_and_seeds_look_unrelated() -> None:
    orders = np.stack([epoch_order(range(1000), seed, epoch) for seed in (1, 2) for epoch in (0, 1)])
    correlation = np.corrcoef(orders.argsort(axis=1))[np.triu_indices(4, 1)]

    assert np.abs(correlation).max() < 0.12


def test_without_images_there_is_no_order() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        next(windows([], seed=1, global_batch=2))
