"""The copy of the newest commit on the node."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3ft_trainer.store import nodecopy
from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta


class Counting(Store):
    """Counts the bytes of tensor files that are read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._backend, address=store.address, folder=store.folder)
        self.read_bytes = 0
        self._lock = threading.Lock()

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        with self._lock:
            self.read_bytes += length if key.endswith(".safetensors") else 0
        return super().get_range(key, start, length)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def options(cache: Path) -> StoreOptions:
    return StoreOptions(outage_s=1.0, peer_timeout_s=20.0, cache_dir=cache)


def events(run: RunStore) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.fields)) for event in run.poll() if event.name.startswith("copy_")]


def copied_files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def save(run: RunStore, tensors: dict[str, Tensor], step: int) -> None:
    run.save(tensors, CommitMeta(step=step), wait=True)
    run.close()


def test_the_newest_commit_is_read_from_the_nodes_copy_and_no_byte_of_it_from_the_store(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    folder_store: Store,
    options: StoreOptions,
):
    run = open_run(options=options)
    save(run, state_at(1), 1)
    save(run, state_at(2), 2)
    told = events(run)
    again, targets = Counting(folder_store), empty_targets()
    resumed = open_run(options=options, store=again)
    restored = resumed.restore(targets)

    assert [("copy_written", 1), ("copy_written", 2)] == [(name, fields["step"]) for name, fields in told]
    assert restored is not None
    assert 2 == restored.step
    assert all(torch.equal(tensor, targets[name]) for name, tensor in state_at(2).items())
    assert 0 == again.read_bytes
    (name, fields) = events(resumed)[0]
    assert "copy_used" == name
    assert fields["bytes"] == sum(f.size for f in resumed.commits()[0].files if f.group != "index")


def test_only_the_newest_commit_is_copied(
    open_run: Callable[..., RunStore], state_at: Callable[[int], dict[str, Tensor]], cache: Path, options: StoreOptions
):
    run = open_run(options=options)
    for step in range(1, 5):
        save(run, state_at(step), step)

    assert {run.commits()[0].prefix.partition("/")[2]} == {path.parent.name for path in copied_files(cache)}


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_damaged_copy_is_dropped_counted_and_told_and_the_store_is_read(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    cache: Path,
    options: StoreOptions,
    harm: str,
):
    save(open_run(options=options), state_at(1), 1)
    victims = copied_files(cache)
    for path in victims:
        data = bytearray(path.read_bytes())
        if harm == "delete":
            path.unlink()
        else:
            data[-1] ^= 1
            path.write_bytes(data if harm == "flip" else data[:-1])
    targets = empty_targets()
    resumed = open_run(options=options)
    restored = resumed.restore(targets)
    told = events(resumed)

    assert restored is not None
    assert () == restored.fell_back
    assert all(torch.equal(tensor, targets[name]) for name, tensor in state_at(1).items())
    assert ([] if harm == "delete" else ["copy_damaged"] * len(victims)) == [name for name, _ in told]
    assert [] == copied_files(cache)


def test_a_copy_of_other_bytes_of_the_same_size_is_never_restored(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    empty_targets: Callable[[], dict[str, Tensor]],
    cache: Path,
    tmp_path: Path,
    options: StoreOptions,
):
    save(open_run(options=options), state_at(1), 1)
    old = {path.name: path.read_bytes() for path in copied_files(cache)}
    save(open_run(options=options), state_at(2), 2)
    for path in copied_files(cache):
        path.write_bytes(old[path.name])
    targets = empty_targets()
    open_run(options=options).restore(targets)

    assert all(torch.equal(tensor, targets[name]) for name, tensor in state_at(2).items())


def test_the_next_save_does_not_wait_for_a_copy_and_the_copy_is_given_up(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    cache: Path,
    options: StoreOptions,
    monkeypatch: pytest.MonkeyPatch,
):
    begun, go_on = threading.Event(), threading.Event()
    whole = nodecopy.NodeCopy._write_file

    def slow(self: nodecopy.NodeCopy, number: int, path: Path, data: memoryview) -> None:
        begun.set()
        go_on.wait(20)
        whole(self, number, path, data)

    monkeypatch.setattr(nodecopy.NodeCopy, "_write_file", slow)
    run = open_run(options=options)
    run.save(state_at(1), CommitMeta(step=1), wait=True)
    assert begun.wait(20)
    ticket = run.save(state_at(2), CommitMeta(step=2))
    assert "committed" == ticket.wait().state
    go_on.set()
    run.close()

    assert [("copy_skipped", 1), ("copy_written", 2)] == [(name, fields["step"]) for name, fields in events(run)]
    assert {run.commits()[0].prefix.partition("/")[2]} == {path.parent.name for path in copied_files(cache)}


def test_without_room_there_is_no_copy_but_an_event_and_copies_of_runs_long_gone_give_way(
    open_run: Callable[..., RunStore],
    state_at: Callable[[int], dict[str, Tensor]],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    for name in ("gone", "alive"):
        (cache / "commits" / name).mkdir(parents=True)
        (cache / "commits" / name / "file").write_bytes(bytes(100))
    usage = type(shutil.disk_usage(cache))
    monkeypatch.setattr(nodecopy.shutil, "disk_usage", lambda _: usage(1000, 990, 10))
    ages = {"gone": 0.0, "alive": 90_000.0}
    monkeypatch.setattr(nodecopy, "_newest_write", lambda folder: ages.get(folder.name, 0.0))
    run = open_run(options=StoreOptions(cache_dir=cache, clock=lambda: 100_000.0))
    save(run, state_at(1), 1)
    (name, fields) = events(run)[0]

    assert "copy_skipped" == name
    assert "no room for a copy of" in fields["message"]
    assert 1 == run.counters.committed
    assert ["alive"] == [path.parent.name for path in copied_files(cache)]


def test_a_cache_folder_that_cannot_be_written_costs_nothing_but_an_event(
    open_run: Callable[..., RunStore], state_at: Callable[[int], dict[str, Tensor]], tmp_path: Path
):
    (tmp_path / "file").write_text("not a folder")
    run = open_run(options=StoreOptions(cache_dir=tmp_path / "file"))
    save(run, state_at(1), 1)

    assert ["copy_skipped"] == [name for name, _ in events(run)]
    assert 1 == run.counters.committed


def test_a_process_that_must_end_soon_gives_the_copy_up(
    open_run: Callable[..., RunStore],
    gated: Any,
    state_at: Callable[[int], dict[str, Tensor]],
    cache: Path,
    options: StoreOptions,
):
    run = open_run(options=options, store=gated)
    gated.gate.clear()
    run.save(state_at(1), CommitMeta(step=1))
    run.forgo_copy()
    gated.gate.set()
    run.close()

    assert ["copy_skipped"] == [name for name, _ in events(run)]
    assert [] == copied_files(cache)
