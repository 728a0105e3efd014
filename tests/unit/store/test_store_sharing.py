"""A commit that is read once by all ranks together."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta


class Ring:
    """The broadcast of ranks that are threads."""

    def __init__(self, world_size: int) -> None:
        self._meet = threading.Barrier(world_size, timeout=20)
        self._slot: Tensor = torch.empty(0)
        self.calls = 0

    def of(self, rank: int) -> Callable[[Tensor, int], None]:
        def broadcast(tensor: Tensor, source: int) -> None:
            if rank == source:
                self._slot = tensor
                self.calls += 1
            self._meet.wait()
            if rank != source:
                tensor.copy_(self._slot)
            self._meet.wait()

        return broadcast


class Watching(Store):
    """Counts how often each byte range of a file is read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._backend, address=store.address, folder=store.folder)
        self.read: Counter[str] = Counter()
        self._lock = threading.Lock()

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        with self._lock:
            self.read[key] += 1
        return super().get_range(key, start, length)


def save_by(
    world_size: int,
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    states: list[dict[str, Tensor]],
) -> None:
    def save(rank: int, exchange: LocalExchange) -> None:
        run = open_run(rank=rank, world_size=world_size, exchange=exchange)
        for step, state in enumerate(states, start=1):
            run.save(state, CommitMeta(step=step), wait=True)
        run.close()

    assert [None] * world_size == run_ranks(world_size, save)


@pytest.mark.parametrize(("then", "now"), [(1, 2), (2, 2), (3, 2), (2, 5), (4, 4)])
def test_each_file_is_read_by_one_rank_and_every_rank_gets_every_bit(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    folder_store: Store,
    then: int,
    now: int,
):
    state = state_at(3)
    state["model/head.bias"][0] = float("nan")
    save_by(then, open_run, run_ranks, [state])
    ring, store = Ring(now), Watching(folder_store)

    def load(rank: int, exchange: LocalExchange) -> Any:
        run = open_run(rank=rank, world_size=now, exchange=exchange, store=store)
        targets = empty_targets()
        return run.restore(targets, broadcast=ring.of(rank)), targets

    for restored, targets in run_ranks(now, load):
        assert 1 == restored.step
        for name, tensor in state.items():
            assert tensor.dtype == targets[name].dtype
            assert torch.equal(
                tensor.contiguous().view(-1).view(torch.uint8), targets[name].contiguous().view(-1).view(torch.uint8)
            ), name
    assert ring.calls > 0
    files = [file.key for file in open_run().commits()[0].files]
    assert set(files) == set(store.read)
    alone = Watching(folder_store)
    open_run(store=alone).restore(empty_targets())
    assert alone.read == store.read


@pytest.mark.parametrize("victim", range(4))
def test_damage_that_one_reader_finds_makes_all_fall_back_before_anything_is_handed_over(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    victim: int,
):
    save_by(2, open_run, run_ranks, [state_at(1), state_at(2)])
    commit = open_run().commits()[0]
    path = Path(open_run().address) / commit.files[victim].key
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    ring = Ring(2)
    calls_at: list[int] = []

    def load(rank: int, exchange: LocalExchange) -> Any:
        run = open_run(rank=rank, world_size=2, exchange=exchange)
        vote = run._resumer._vote

        def watched(turn: int, mine: Any) -> Any:
            calls_at.append(ring.calls)
            return vote(turn, mine)

        run._resumer._vote = watched
        targets = empty_targets()
        return run.restore(targets, broadcast=ring.of(rank)), targets

    for restored, targets in run_ranks(2, load):
        assert 1 == restored.step
        assert f"step 2 is damaged: {commit.files[victim].key}" in restored.message
        assert all(torch.equal(tensor, targets[name]) for name, tensor in state_at(1).items())
    assert [0] * 4 == calls_at
    assert ring.calls > 0


def test_ranks_with_other_tensors_fail_together_and_hand_nothing_over(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    save_by(2, open_run, run_ranks, [state_at(1)])
    ring = Ring(2)

    def load(rank: int, exchange: LocalExchange) -> Any:
        run = open_run(rank=rank, world_size=2, exchange=exchange)
        targets = empty_targets()
        if rank:
            targets["model/head.bias"] = torch.zeros(8).bfloat16()
        return run.restore(targets, broadcast=ring.of(rank))

    errors = run_ranks(2, load)

    assert ["CheckpointIncompatible"] * 2 == [type(error).__name__ for error in errors]
    assert "model/head.bias" in str(errors[0])
    assert 0 == ring.calls


def test_files_of_another_layout_are_read_whole_by_every_rank(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    small = StoreOptions(outage_s=1.0, peer_timeout_s=20.0, max_file_bytes=500)
    open_run(options=small).save(state_at(1), CommitMeta(step=1), wait=True)
    ring = Ring(2)

    def load(rank: int, exchange: LocalExchange) -> Any:
        targets = empty_targets()
        open_run(rank=rank, world_size=2, exchange=exchange).restore(targets, broadcast=ring.of(rank))
        return targets

    for targets in run_ranks(2, load):
        assert all(torch.equal(tensor, targets[name]) for name, tensor in state_at(1).items())
    assert 0 == ring.calls
