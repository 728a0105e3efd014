import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sam3ft_api.errors import (
    Fenced,
    StorageDenied,
)
from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta, ExportedFile, ExportRecord


def meta(step: int, **more: Any) -> Any:
    return CommitMeta(step=step, epoch=step / 10, cursor={"next": step * 2}, **more)


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
    gated: Any,
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


EXPORT = ExportRecord(address="s3://models/blood", files=(ExportedFile(name="config.json", size=2, sha256="ab"),))


def test_an_export_is_known_from_the_log_until_the_run_goes_on(
    open_run: Callable[..., RunStore], state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run()
    run.save(state_at(1), meta(1), wait=True)
    assert run.exported() is None
    run.record_export(EXPORT, meta(1, metrics={"bbox_AP": 0.4}))

    again = open_run()
    entry = again.exported()
    assert entry is not None
    assert (EXPORT, {"bbox_AP": 0.4}) == (entry.export, entry.meta.metrics)
    assert again.finished() is None
    again.save(state_at(2), meta(2), wait=True)
    assert again.exported() is None


def test_an_export_of_a_fenced_incarnation_is_not_recorded(
    open_run: Callable[..., RunStore], state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run()
    run.save(state_at(1), meta(1), wait=True)
    newer = open_run()

    with pytest.raises(Fenced):
        run.record_export(EXPORT, meta(1))
    assert newer.exported() is None


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
    open_run: Callable[..., RunStore], gated: Any, state_at: Callable[[int], dict[str, Tensor]]
):
    run = open_run(store=gated)
    assert run.estimated_save_s() is None
    gated.gate.clear()
    threading.Timer(0.5, gated.gate.set).start()
    started = time.monotonic()
    run.save(state_at(1), meta(1), wait=True)
    took_s = time.monotonic() - started

    assert 0.2 * took_s < run.estimated_save_s() < 1.1 * took_s


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
