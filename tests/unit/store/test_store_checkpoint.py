import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sam3ft_api.errors import (
    CheckpointIncompatible,
    Fenced,
    InvalidConfig,
    PeerLost,
    StorageDenied,
    StorageUnavailable,
)
from sam3ft_api.training import IdentityConfig
from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.exchange import Exchange, LocalExchange
from sam3ft_trainer.store.objects import NoRoom, Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta
from sam3ft_trainer.store.restore import Damaged
from sam3ft_trainer.store.saver import SaveTicket


def meta(step: int, **more: Any) -> Any:
    return CommitMeta(step=step, epoch=step / 10, cursor={"next": step * 2}, **more)


def assert_equal_states(expected: Any, actual: Any) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


class Gated(Store):
    """Holds uploads back until `gate` is open; then fails them with `error` if there is one."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._backend, address=store.address, folder=store.folder)
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        super().put(key, data)


@pytest.fixture
def gated(folder_store: Store):
    store = Gated(folder_store)
    yield store
    store.gate.set()


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


def test_what_is_saved_is_the_state_at_the_call(
    open_run: Callable[..., RunStore],
    gated: Gated,
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    run = open_run(store=gated)
    state = {name: tensor.clone() for name, tensor in state_at(1).items()}
    gated.gate.clear()
    ticket = run.save(state, meta(1))
    for tensor in state.values():
        tensor.zero_()
    gated.gate.set()
    ticket.wait()
    targets = empty_targets()
    open_run().restore(targets)

    assert_equal_states(state_at(1), targets)


def test_a_periodic_save_is_skipped_and_counted_while_one_is_under_way(
    open_run: Callable[..., RunStore], gated: Gated, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated)
    gated.gate.clear()
    first = run.save(state_at(1), meta(1))
    second = run.save(state_at(2), meta(2))

    assert run.busy
    assert second.done
    assert "skipped" == second.outcome.state
    gated.gate.set()
    assert "committed" == first.wait().state
    third = run.save(state_at(3), meta(3), wait=True)
    assert "committed" == third.outcome.state
    assert (1, 2) == (run.counters.skipped, run.counters.committed)
    assert [3, 1] == [commit.meta.step for commit in run.commits()]
    assert {"save_skipped", "checkpoint_committed"} == {event.name for event in run.poll()}
    assert [] == run.poll()


def test_a_waiting_save_waits_for_the_one_under_way(
    open_run: Callable[..., RunStore], gated: Gated, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated)
    gated.gate.clear()
    run.save(state_at(1), meta(1))
    threading.Timer(0.2, gated.gate.set).start()
    run.save(state_at(2), meta(2), wait=True)

    assert [2, 1] == [commit.meta.step for commit in run.commits()]


@pytest.mark.parametrize("busy_rank", [0, 1])
def test_a_save_that_one_rank_skips_is_committed_by_none(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    folder_store: Store,
    state_at: Callable[[int], dict[str, Tensor]],
    busy_rank: int,
):
    """Rank `busy_rank` is still in its first save when the second is asked for."""
    barrier = threading.Barrier(2)

    def work(rank: int, exchange: Exchange) -> Any:
        run = open_run(rank=rank, world_size=2, exchange=exchange)
        first = run.save(state_at(1), meta(1), wait=True)
        if rank == busy_rank:
            run._saver._last = SaveTicket(meta(1))
        second = run.save(state_at(2), meta(2))
        outcome = second.wait().state
        barrier.wait()
        run._saver._last = second
        third = run.save(state_at(3), meta(3), wait=True)
        run.close()
        return first.outcome.state, outcome, third.outcome.state, run.counters.skipped

    assert [("committed", "skipped", "committed", 1)] * 2 == run_ranks(2, work)
    assert 2 == len(list((folder_store.folder / "ckpt").glob("*/model.safetensors.index.json")))
    assert not list((folder_store.folder / "ckpt").glob("*s00000002*/*.safetensors"))


def test_a_silent_peer_costs_this_save_and_nothing_else(
    open_run: Callable[..., RunStore], run_ranks: Callable[..., list[Any]], state_at: Callable[[int], dict[str, Tensor]]
):
    options = StoreOptions(outage_s=1.0, peer_timeout_s=0.5)
    done = threading.Event()

    def work(rank: int, exchange: Exchange) -> Any:
        run = open_run(rank=rank, world_size=2, exchange=exchange, options=options)
        run.save(state_at(1), meta(1), wait=True)
        if rank == 1:
            done.wait(20)
            return None
        ticket = run.save(state_at(2), meta(2))
        state = ticket.wait().state
        run.poll()
        with pytest.raises(PeerLost, match="step 3"):
            run.save(state_at(3), meta(3), wait=True)
        done.set()
        return state, run.counters.aborted, [commit.meta.step for commit in run.commits()]

    assert [("aborted", 2, [1]), None] == run_ranks(2, work)


def test_ranks_with_other_shapes_are_found_out(
    open_run: Callable[..., RunStore], run_ranks: Callable[..., list[Any]], state_at: Callable[[int], dict[str, Tensor]]
):
    def work(rank: int, exchange: Exchange) -> Any:
        run = open_run(rank=rank, world_size=2, exchange=exchange)
        state = state_at(1) | ({"model/more": torch.zeros(1)} if rank else {})
        with pytest.raises(RuntimeError, match="different shapes"):
            run.save(state, meta(1), wait=True)
        return run.commits()

    assert [[], []] == run_ranks(2, work)


def test_a_failure_of_one_rank_ends_all_with_its_code(
    open_run: Callable[..., RunStore],
    run_ranks: Callable[..., list[Any]],
    folder_store: Store,
    state_at: Callable[[int], dict[str, Tensor]],
):
    def work(rank: int, exchange: Exchange) -> Any:
        gated = Gated(folder_store)
        run = open_run(rank=rank, world_size=2, exchange=exchange, store=gated)
        gated.error = NoRoom("disk full, 5 bytes are free") if rank == 1 else None
        with pytest.raises(StorageDenied, match="5 bytes are free"):
            run.save(state_at(1), meta(1), wait=True)
        with pytest.raises(StorageDenied):
            run.poll()
        with pytest.raises(StorageDenied):
            run.save(state_at(2), meta(2))
        return run.newest_step

    assert [None, None] == run_ranks(2, work)


def test_refused_access_is_final_before_the_first_commit_and_an_outage_after_it(
    open_run: Callable[..., RunStore], gated: Gated, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated)
    gated.error = StorageDenied("403")
    with pytest.raises(StorageDenied):
        run.save(state_at(1), meta(1), wait=True)
    gated.error = None

    run = open_run(store=gated)
    run.save(state_at(1), meta(1), wait=True)
    gated.error = StorageDenied("403")

    with pytest.raises(StorageUnavailable, match="403"):
        run.save(state_at(2), meta(2), wait=True)
    assert 1 == run.newest_step


def test_a_short_outage_is_waited_for(
    open_run: Callable[..., RunStore], gated: Gated, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated, options=StoreOptions(outage_s=10.0))
    gated.error = StorageUnavailable("no route")
    threading.Timer(0.2, lambda: setattr(gated, "error", None)).start()
    run.save(state_at(1), meta(1), wait=True)

    assert 1 == run.newest_step


def test_an_upload_that_was_accepted_and_is_not_there_is_not_committed(
    open_run: Callable[..., RunStore],
    gated: Gated,
    state_at: Callable[[int], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
):
    run = open_run(store=gated)
    monkeypatch.setattr(Store, "put", lambda *_: None)

    with pytest.raises(StorageUnavailable, match="is not there"):
        run.save(state_at(1), meta(1), wait=True)
    assert [] == run.commits()


def test_a_defect_in_the_background_reaches_the_loop(
    open_run: Callable[..., RunStore], gated: Gated, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated)
    gated.error = ZeroDivisionError("a defect")
    run.save(state_at(1), meta(1)).wait()

    with pytest.raises(ZeroDivisionError, match="a defect"):
        run.poll()


def test_the_older_of_two_incarnations_is_fenced_at_its_next_save(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
):
    old = open_run()
    old.save(state_at(1), meta(1), wait=True)
    new = open_run()
    new.restore(empty_targets())
    new.save(state_at(2), meta(2), wait=True)
    files = sorted(p for p in Path(old.address).rglob("*") if p.is_file())

    old.save(state_at(3), meta(3)).wait()
    with pytest.raises(Fenced):
        old.poll()
    with pytest.raises(Fenced):
        old.finalize(meta(3))
    assert set(files) <= {p for p in Path(old.address).rglob("*") if p.is_file()}
    targets = empty_targets()
    assert 2 == open_run().restore(targets).step
    assert_equal_states(state_at(2), targets)


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


def test_superseded_commits_are_deleted_and_the_best_is_kept(
    open_run: Callable[..., RunStore], state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(keep_last=2, keep_best=1, options=StoreOptions(best_metric="bbox_AP"))
    for step, score in enumerate([0.1, 0.9, float("nan"), 0.3, 0.2, 0.1], start=1):
        run.save(state_at(step), meta(step, metrics={"bbox_AP": score}), wait=True)
    run.close()

    assert [6, 5, 2] == [commit.meta.step for commit in run.commits()]
    assert ["g0001-s00000002", "g0001-s00000005", "g0001-s00000006"] == sorted(
        p.name.rsplit("-", 2)[0] for p in Path(run.address).glob("ckpt/*")
    )


def test_what_cannot_be_deleted_is_counted_and_ends_nothing(
    open_run: Callable[..., RunStore],
    gated: Gated,
    state_at: Callable[[int], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse(_store: Store, prefix: str) -> None:
        raise StorageDenied(f"{prefix}: no permission to delete")

    monkeypatch.setattr(Store, "delete_prefix", refuse)
    run = open_run(keep_last=1, store=gated)
    for step in (1, 2):
        run.save(state_at(step), meta(step), wait=True)
    run.close()

    assert 1 == run.counters.cleanup_failures
    assert "cleanup_failed" in {event.name for event in run.poll()}


def test_files_of_dead_incarnations_are_swept_after_a_day_and_a_commit(
    open_run: Callable[..., RunStore], folder_store: Store, state_at: Callable[[int], dict[str, Tensor]]
):
    open_run()
    folder_store.put("ckpt/g0001-s00000009-dead-1/model-00001-of-00001.safetensors", b"x")
    folder_store.put("ckpt/notes/readme", b"not ours")
    open_run(options=StoreOptions(orphan_age_s=3600)).save(state_at(1), meta(1), wait=True)
    assert 3 == len(list((folder_store.folder / "ckpt").iterdir()))

    run = open_run(options=StoreOptions(orphan_age_s=-1.0))
    run.save(state_at(2), meta(2), wait=True)
    run.close()

    assert {"notes"} == {p.name for p in (folder_store.folder / "ckpt").iterdir()} - {
        commit.prefix.removeprefix("ckpt/") for commit in run.commits()
    }
    assert [2, 1] == [commit.meta.step for commit in run.commits()]


def test_an_export_is_copied_and_recorded_with_hashes(
    open_run: Callable[..., RunStore], tmp_path: Path, state_at: Callable[[int], dict[str, Tensor]]
):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep" / "model.safetensors").write_bytes(bytes(1000))
    run = open_run()
    run.save(state_at(1), meta(1), wait=True)
    entry = run.record_export(tmp_path / "model", meta(1))

    assert ["config.json", "deep/model.safetensors"] == [f.key.removeprefix(f"{entry.prefix}/") for f in entry.files]
    assert [2, 1000] == [(Path(run.address) / f.key).stat().st_size for f in entry.files]
    assert run.finished() is None


def test_an_export_of_nothing_is_an_error(open_run: Callable[..., RunStore], tmp_path: Path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(FileNotFoundError):
        open_run().record_export(tmp_path / "empty", meta(1))


def test_a_finished_run_says_so_until_it_goes_on(
    open_run: Callable[..., RunStore], state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run()
    run.save(state_at(1), meta(1), wait=True)
    assert run.finished() is None
    run.finalize(meta(1, metrics={"bbox_AP": 0.4}))

    again = open_run()
    assert {"bbox_AP": 0.4} == again.finished().meta.metrics
    again.save(state_at(2), meta(2), wait=True)
    assert again.finished() is None


def test_the_time_of_a_save_is_estimated_from_measured_rates(
    open_run: Callable[..., RunStore], gated: Gated, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated)
    assert run.estimated_save_s() is None
    gated.gate.clear()
    threading.Timer(0.5, gated.gate.set).start()
    run.save(state_at(1), meta(1), wait=True)

    assert 0.4 < run.estimated_save_s() < 2.0


def test_shards_are_plain_safetensors_files_of_the_model(
    open_run: Callable[..., RunStore], state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run()
    run.save(state_at(5), meta(5), wait=True)
    file = next(Path(run.address).glob("ckpt/*/model-00001-of-00001.safetensors"))

    loaded = load_file(file)
    for name, tensor in state_at(5).items():
        if name.startswith("model/"):
            assert torch.equal(tensor, loaded[name.removeprefix("model/")])
