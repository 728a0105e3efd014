import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3ft_api.errors import (
    Fenced,
    PeerLost,
    StorageDenied,
    StorageUnavailable,
)
from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.exchange import Exchange
from sam3ft_trainer.store.objects import NoRoom, Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta
from sam3ft_trainer.store.saver import SaveTicket


def meta(step: int, **more: Any) -> Any:
    return CommitMeta(step=step, epoch=step / 10, cursor={"next": step * 2}, **more)


def assert_equal_states(expected: Any, actual: Any) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name


def test_what_is_saved_is_the_state_at_the_call(
    open_run: Callable[..., RunStore],
    gated: Any,
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
    open_run: Callable[..., RunStore], gated: Any, state_at: Callable[[int], dict[str, Tensor]]
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
    open_run: Callable[..., RunStore], gated: Any, state_at: Callable[[int], dict[str, Tensor]]
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
    gate: Callable[[Store], Any],
    folder_store: Store,
    state_at: Callable[[int], dict[str, Tensor]],
):
    def work(rank: int, exchange: Exchange) -> Any:
        gated = gate(folder_store)
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
    open_run: Callable[..., RunStore], gated: Any, state_at: Callable[[int], dict[str, Tensor]]
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
    open_run: Callable[..., RunStore], gated: Any, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated, options=StoreOptions(outage_s=10.0))
    gated.error = StorageUnavailable("no route")
    threading.Timer(0.2, lambda: setattr(gated, "error", None)).start()
    run.save(state_at(1), meta(1), wait=True)

    assert 1 == run.newest_step


def test_an_upload_that_was_accepted_and_is_not_there_is_not_committed(
    open_run: Callable[..., RunStore],
    gated: Any,
    state_at: Callable[[int], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
):
    run = open_run(store=gated)
    monkeypatch.setattr(Store, "put", lambda *_: None)

    with pytest.raises(StorageUnavailable, match="is not there"):
        run.save(state_at(1), meta(1), wait=True)
    assert [] == run.commits()


def test_a_defect_in_the_background_reaches_the_loop(
    open_run: Callable[..., RunStore], gated: Any, state_at: Callable[[int], dict[str, Tensor]]
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
