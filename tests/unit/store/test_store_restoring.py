from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3ft_api.errors import (
    CheckpointIncompatible,
    InvalidConfig,
    PeerLost,
    StorageUnavailable,
)
from sam3ft_api.training import IdentityConfig
from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.exchange import Exchange, LocalExchange
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta
from sam3ft_trainer.store.restore import Damaged


def meta(step: int, **more: Any) -> Any:
    return CommitMeta(step=step, epoch=step / 10, cursor={"next": step * 2}, **more)


def assert_equal_states(expected: Any, actual: Any) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


@pytest.mark.parametrize(("then", "now"), [(1, 1), (1, 3), (3, 1), (2, 3), (5, 2)])
def test_any_number_of_ranks_restores_what_any_number_has_saved(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    then: int,
    now: int,
):
    def save(rank: int, exchange: Exchange) -> Any:
        run = open_run(rank=rank, world_size=then, exchange=exchange)
        assert run.restore(empty_targets()) is None
        run.save(state_at(4), meta(4, metrics={"AP": 0.5}, extra={"threads": 2}), wait=True)
        return run.newest_step

    def load(rank: int, exchange: Exchange) -> Any:
        run = open_run(rank=rank, world_size=now, exchange=exchange)
        targets = empty_targets()
        return run.restore(targets), targets

    assert [4] * then == run_ranks(then, save)
    for restored, targets in run_ranks(now, load):
        assert_equal_states(state_at(4), targets)
        assert (meta(4, metrics={"AP": 0.5}, extra={"threads": 2}), then) == (restored.meta, restored.world_size_then)


def test_the_message_says_what_was_resumed(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    address: str,
):
    run = open_run(options=StoreOptions(clock=lambda: 1000.0))
    run.save(state_at(12), meta(12), wait=True)
    restored = open_run(options=StoreOptions(clock=lambda: 1042.0)).restore(empty_targets())

    assert (
        f"resumed from {address}, log entry 2: step 12, epoch 1.20, saved 42 s ago by 1 process, now 1"
        == restored.message
    )


@pytest.mark.parametrize("harm", ["delete", "truncate", "flip", "grow"])
def test_a_harmed_file_is_noticed_whichever_it_is(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    harm: str,
):
    run = open_run(keep_last=20)
    run.save(state_at(1), meta(1), wait=True)
    files = sorted(Path(run.address).glob("ckpt/*/*"))
    assert len(files) == 4
    for turn in range(len(files)):
        run = open_run(keep_last=20)
        assert 1 == run.restore(empty_targets()).step
        run.save(state_at(2), meta(2), wait=True)
        newest = max(Path(run.address).glob("ckpt/*"), key=lambda p: p.stat().st_mtime_ns)
        victim = sorted(newest.iterdir())[turn]
        data = bytearray(victim.read_bytes())
        if harm == "delete":
            victim.unlink()
        elif harm == "flip":
            data[(len(data) * (turn + 1)) // 5] ^= 1
            victim.write_bytes(data)
        else:
            victim.write_bytes(data[:-1] if harm == "truncate" else data + b"\0")
        targets = empty_targets()
        restored = open_run(keep_last=20).restore(targets)

        assert 1 == restored.step
        assert_equal_states(state_at(1), targets)
        assert f"step 2 is damaged: {victim.relative_to(run.address)}" in restored.message


def test_every_flipped_byte_is_noticed(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    run = open_run()
    run.save(state_at(1), meta(1), wait=True)
    run.save(state_at(2), meta(2), wait=True)
    victim = next(Path(run.address).glob("ckpt/*s00000002*/optimizer*"))
    data = victim.read_bytes()
    reader = run._resumer._reader
    record = next(f for f in run.commits()[0].files if f.key.endswith(victim.name))
    for position in range(0, len(data), 7):
        broken = bytearray(data)
        broken[position] ^= 0x10
        victim.write_bytes(broken)
        with pytest.raises(Damaged):
            reader.load(record, empty_targets())


def test_a_fault_on_the_way_is_read_again_and_retires_nothing(
    open_run: Callable[..., RunStore],
    folder_store: Store,
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    class Noisy(Store):
        """Flips a byte in the first range that is read of each tensor file."""

        def get_range(self, key: str, start: int, length: int) -> Any:
            data = super().get_range(key, start, length)
            if key in seen or start == 0:
                return data
            seen.add(key)
            return memoryview(bytes([data[0] ^ 1]) + bytes(data[1:]))

    seen = set()
    open_run().save(state_at(1), meta(1), wait=True)
    targets = empty_targets()
    noisy = Noisy(folder_store._backend, address="x", folder=folder_store.folder)
    restored = open_run(store=noisy).restore(targets)

    assert 3 == len(seen)
    assert (1, ()) == (restored.step, restored.fell_back)
    assert_equal_states(state_at(1), targets)


def test_damage_that_one_rank_alone_sees_makes_all_fall_back(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    folder_store: Store,
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    class Bad(Store):
        """Reads step 2 with a wrong byte, always."""

        def get_range(self, key: str, start: int, length: int) -> Any:
            data = super().get_range(key, start, length)
            return memoryview(bytes([data[0] ^ 1]) + bytes(data[1:])) if "s00000002" in key and start else data

    run = open_run()
    for step in (1, 2):
        run.save(state_at(step), meta(step), wait=True)

    def work(rank: int, exchange: Exchange) -> Any:
        kind = Bad if rank == 2 else Store
        store = kind(folder_store._backend, address="x", folder=folder_store.folder)
        targets = empty_targets()
        restored = open_run(rank=rank, world_size=3, exchange=exchange, store=store).restore(targets)
        assert_equal_states(state_at(1), targets)
        return restored.step, len(restored.fell_back)

    assert [(1, 1)] * 3 == run_ranks(3, work)


def test_when_every_commit_is_damaged_no_rank_starts_afresh(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    run = open_run()
    for step in (1, 2):
        run.save(state_at(step), meta(step), wait=True)
    for file in Path(run.address).glob("ckpt/*/model-*"):
        file.write_bytes(b"x")

    def work(rank: int, exchange: Exchange) -> Any:
        return open_run(rank=rank, world_size=2, exchange=exchange).restore(empty_targets())

    for error in run_ranks(2, work):
        assert isinstance(error, CheckpointIncompatible)
        assert "not a fresh start" in str(error)
    with pytest.raises(CheckpointIncompatible, match="not a fresh start"):
        open_run()


def test_an_unreachable_store_is_not_taken_for_damage(
    open_run: Callable[..., RunStore],
    folder_store: Store,
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    class Down(Store):
        def get_range(self, *_: Any) -> None:
            raise StorageUnavailable("no route")

    open_run().save(state_at(1), meta(1), wait=True)
    down = Down(folder_store._backend, address="x", folder=folder_store.folder)
    run = open_run(store=down)
    with pytest.raises(StorageUnavailable):
        run.restore(empty_targets())

    assert [1] == [commit.meta.step for commit in run.commits()]


def test_tensors_of_another_model_are_refused_by_name_and_retire_nothing(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    open_run().save(state_at(1), meta(1), wait=True)
    targets = empty_targets()
    targets["model/head.bias"] = torch.zeros(9)
    del targets["ema/mask"]
    run = open_run()

    with pytest.raises(CheckpointIncompatible, match=r"ema/mask is in the checkpoint only; model/head.bias is BF16"):
        run.restore(targets)
    assert [1] == [commit.meta.step for commit in run.commits()]


def test_changed_annotations_are_refused_or_start_the_epoch_again(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    open_run().save(state_at(1), meta(1), wait=True)

    with pytest.raises(CheckpointIncompatible, match=r"on_change: restartEpoch"):
        open_run(changed_facts={"dataset_digest": "e" * 64}).restore(empty_targets())
    restored = open_run(changed_facts={"dataset_digest": "e" * 64, "on_dataset_change": "restartEpoch"}).restore(
        empty_targets()
    )
    assert restored.dataset_changed
    assert "epoch starts again" in restored.message


def test_a_refusal_of_the_first_rank_reaches_all(
    open_run: Callable[..., RunStore], run_ranks: Callable[..., list[Any]]
):
    open_run(identity=IdentityConfig(name="blood", uid="1"))

    def work(rank: int, exchange: Exchange) -> Any:
        return open_run(rank=rank, world_size=3, exchange=exchange, identity=IdentityConfig(name="steel", uid="2"))

    errors = run_ranks(3, work)
    assert [CheckpointIncompatible] * 3 == [type(error) for error in errors]
    assert all("'blood'" in str(error) and "'steel'" in str(error) for error in errors)


def test_a_run_without_an_address_is_refused(open_run: Callable[..., RunStore]):
    with pytest.raises(InvalidConfig, match=r"checkpoint\.uri"):
        open_run(uri=None)


def test_the_rank_that_waits_for_the_first_one_gives_up(open_run: Callable[..., RunStore]):
    with pytest.raises(PeerLost, match="claim"):
        open_run(rank=1, world_size=2, exchange=LocalExchange(), options=StoreOptions(peer_timeout_s=0.1))


def test_a_header_that_is_longer_than_what_is_read_first_is_read_whole(open_run: Callable[..., RunStore]):
    state = {f"model/{'long_name_' * 8}{number}": torch.tensor([float(number)]) for number in range(4000)}
    run = open_run()
    run.save(state, meta(1), wait=True)
    header = next(file for file in run.commits()[0].files if file.group == "model").size - 4 * len(state)
    targets = {name: torch.zeros(1) for name in state}
    open_run().restore(targets)

    assert header > 1 << 18
    assert_equal_states(state, targets)
