"""The promises of the store on a real S3 server: identity, resume, fence, damage, clean-up, lost answers."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
import torch
from s3_server import S3Server
from store_bench import Site, harm, s3_site
from torch import Tensor

from sam3ft_api.errors import CheckpointIncompatible, Fenced, StorageDenied, StorageUnavailable
from sam3ft_api.training import CheckpointConfig, IdentityConfig, StorageConfig
from sam3ft_faults.proxy import FaultProxy
from sam3ft_faults.rules import Rule
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.history import DamagedHistory
from sam3ft_trainer.store.objects import AlreadyExists, Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta, RunFacts

FACTS = RunFacts(task="detection", numbers_digest="n" * 64, dataset_digest="d" * 64, model_digest="m" * 64)


def state_at(step: int) -> dict[str, Tensor]:
    ramp = torch.arange(1000, dtype=torch.float32)
    return {"model/weight": ramp * step, "optimizer/weight": ramp - step, "ema/weight": ramp + step}


@pytest.fixture
def site(s3_server: S3Server, s3_bucket: str, proxy: FaultProxy, tmp_path: Path) -> Site:
    return s3_site(s3_server, s3_bucket, tmp_path, endpoint=proxy.endpoint)


@pytest.fixture
def open_run(site: Site) -> Callable[..., RunStore]:
    def opened(
        *,
        facts: dict[str, Any] | None = None,
        identity: IdentityConfig | None = None,
        store: Store | None = None,
        options: dict[str, Any] | None = None,
        **config: Any,
    ) -> RunStore:
        return open_run_store(
            CheckpointConfig(uri=site.address, **config),
            identity or IdentityConfig(),
            FACTS.model_copy(update=facts or {}),
            rank=0,
            world_size=1,
            exchange=LocalExchange(),
            options=StoreOptions(outage_s=5.0, access=run_access(StorageConfig(), site.environ), **(options or {})),
            store=store,
        )

    return opened


def save(run: RunStore, *steps: int) -> RunStore:
    for step in steps:
        run.save(state_at(step), CommitMeta(step=step, cursor={"images": 2 * step}), wait=True)
    run.close()
    return run


def restored_step(run: RunStore) -> int | None:
    """Restore, and see that every bit is that of the step."""
    targets = {name: torch.full_like(tensor, 9) for name, tensor in state_at(0).items()}
    restored = run.restore(targets)
    if restored is None:
        return None
    assert {"images": 2 * restored.step} == restored.meta.cursor
    assert all(torch.equal(tensor, targets[name]) for name, tensor in state_at(restored.step).items())
    return restored.step


@pytest.mark.parametrize(
    ("path", "skip"),
    [
        pytest.param(r"/log/\d+\.json", 0, id="claim"),
        pytest.param(r"/log/\d+\.json", 1, id="first-commit"),
        pytest.param(r"/log/\d+\.json", 3, id="third-commit"),
        pytest.param(r"/log/\d+\.json", 4, id="retire"),
        pytest.param(r"/ckpt/.*/model-", 1, id="file"),
        pytest.param(r"/probe/", 0, id="probe"),
    ],
)
def test_an_answer_that_is_lost_after_the_object_was_stored_costs_nothing(
    open_run: Callable[..., RunStore], proxy: FaultProxy, site: Site, path: str, skip: int
) -> None:
    proxy.rules(Rule(fault="lose-response", methods=("PUT",), path=path, skip=skip, times=1))
    run = save(open_run(keep_last=2, keep_best=0), 1, 2, 3, 4)
    struck = proxy.struck()
    proxy.clear()

    assert [1] == struck
    assert [4, 3] == [commit.meta.step for commit in run.commits()]
    assert ["claim", "commit", "commit", "commit", "retire", "commit", "retire"] == [
        entry.kind for entry in site.history().entries
    ]
    assert 4 == restored_step(open_run())


def test_of_many_creators_of_one_entry_exactly_one_wins(site: Site) -> None:
    store = site.store()
    for turn in range(10):
        won: list[int] = []

        def create(number: int, turn: int = turn, won: list[int] = won) -> None:
            try:
                store.put_if_absent(f"race/{turn}", f"writer {number}".encode())
                won.append(number)
            except AlreadyExists:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert 1 == len(won)
        assert f"writer {won[0]}".encode() == store.get(f"race/{turn}")


def test_the_fenced_incarnation_stops_and_neither_changes_nor_deletes_anything(
    open_run: Callable[..., RunStore], site: Site
) -> None:
    old = save(open_run(keep_last=1), 1, 2)
    new = save(open_run(keep_last=1), 3)
    site.look()
    old_objects = {info.key for info in site.store().list_objects("")}

    with pytest.raises(Fenced, match="generation 2"):
        save(old, 4)
    site.look()
    assert old_objects <= {info.key for info in site.store().list_objects("")}
    assert [3] == [commit.meta.step for commit in new.commits()]
    assert 3 == restored_step(open_run())


@pytest.mark.parametrize("resume", ["auto", "never", "must"])
def test_resume_does_what_it_says(open_run: Callable[..., RunStore], resume: str) -> None:
    if resume == "must":
        with pytest.raises(CheckpointIncompatible, match="no commit"):
            open_run(resume="must")
    else:
        assert restored_step(open_run(resume=resume, facts={"invocation": "a"})) is None
    save(open_run(), 1, 2)

    assert (None if resume == "never" else 2) == restored_step(open_run(resume=resume, facts={"invocation": "b"}))


@pytest.mark.parametrize("changed", [{"task": "segmentation"}, {"numbers_digest": "x"}, {"model_digest": "x"}, "owner"])
def test_another_owner_or_computation_is_refused_until_it_adopts(
    open_run: Callable[..., RunStore], site: Site, changed: Any
) -> None:
    save(open_run(), 1)
    other = {"identity": IdentityConfig(name="steel", uid="22")} if changed == "owner" else {"facts": changed}
    entries = site.history().head_seq

    with pytest.raises(CheckpointIncompatible, match="adopt: true"):
        open_run(**other)
    assert entries == site.history().head_seq

    assert 1 == restored_step(open_run(adopt=True, **other))
    with pytest.raises(CheckpointIncompatible):
        open_run()


def test_other_annotations_are_refused_or_start_the_epoch_again(open_run: Callable[..., RunStore]) -> None:
    save(open_run(), 1)
    facts = {"dataset_digest": "other"}

    with pytest.raises(CheckpointIncompatible, match=r"data\.on_change: restartEpoch"):
        restored_step(open_run(facts=facts))
    assert 1 == restored_step(open_run(facts=facts | {"on_dataset_change": "restartEpoch"}))


class Unconditional(Store):
    """A store that does not know conditions: it writes as if none had been given."""

    def put_if_absent(self, key: str, data: bytes) -> None:
        if not self.fenced:
            super().put_if_absent(key, data)
        else:
            obstore.put(self._backend, key, data, use_multipart=False)


def test_a_store_that_cannot_fence_is_refused_unless_that_is_allowed(
    open_run: Callable[..., RunStore], site: Site
) -> None:
    def weak() -> Store:
        return Unconditional(site.store()._backend, address=site.address)

    with pytest.raises(StorageDenied, match="allow_unfenced"):
        open_run(store=weak())
    assert [] == site.store().list_objects("")

    save(open_run(store=weak(), allow_unfenced=True), 1, 2)
    assert 2 == restored_step(open_run(store=weak(), allow_unfenced=True))
    site.look()


def test_a_replaced_entry_in_the_middle_stops_every_resume(open_run: Callable[..., RunStore], site: Site) -> None:
    save(open_run(), 1, 2)
    path = site.path("log/00000002.json")
    entry = json.loads(path.read_text())
    entry["meta"]["step"] = 9
    path.write_text(json.dumps(entry))

    with pytest.raises(DamagedHistory, match=r"00000003\.json does not follow"):
        open_run()


def test_a_newest_entry_that_was_replaced_is_never_restored_from(open_run: Callable[..., RunStore], site: Site) -> None:
    save(open_run(), 1, 2)
    path = site.path("log/00000003.json")
    entry = json.loads(path.read_text())
    older = json.loads(site.path("log/00000002.json").read_text())
    entry["files"] = [
        {**file, "key": old["key"]} for file, old in zip(entry["files"], older["files"], strict=True)
    ]  # its files are now those of step 1
    path.write_text(json.dumps(entry))

    assert 1 == restored_step(open_run())


@pytest.mark.parametrize("key", ["log/00000001.json", "log/00000002.json"])
def test_an_entry_that_vanished_is_no_fresh_start(open_run: Callable[..., RunStore], site: Site, key: str) -> None:
    save(open_run(), 1, 2)
    site.path(key).unlink()

    with pytest.raises(DamagedHistory, match=f"{key} is missing"):
        open_run()


def test_a_run_of_which_every_commit_is_damaged_does_not_begin_again(
    open_run: Callable[..., RunStore], site: Site
) -> None:
    for commit in save(open_run(), 1, 2).commits():
        harm(site.path(commit.files[0].key), "flip")

    with pytest.raises(DamagedHistory, match="every commit is damaged"):
        restored_step(open_run())


def test_files_of_dead_incarnations_are_swept_and_those_of_others_left(
    open_run: Callable[..., RunStore], site: Site
) -> None:
    save(open_run(), 1)
    store = site.store()
    store.put("ckpt/g0001-s00000009-dead-1/model-00001-of-00001.safetensors", b"x")
    store.put("ckpt/notes/readme", b"not ours")
    run = save(open_run(options={"orphan_age_s": -1.0}), 2)

    assert {commit.prefix for commit in run.commits()} | {"ckpt/notes"} == {
        info.prefix for info in store.list_prefixes("ckpt")
    }
    assert [["ckpt/g0001-s00000009-dead-1"]] == [
        event.fields["prefixes"] for event in run.poll() if event.name == "orphans_swept"
    ]


def test_an_upload_that_was_broken_off_leaves_nothing_that_can_be_seen(proxy: FaultProxy, site: Site) -> None:
    store = site.store()
    proxy.rules(Rule(fault="status", status=403, methods=("POST",), path=r"uploadId=", times=100))

    with pytest.raises((StorageDenied, StorageUnavailable)):
        store.put("ckpt/g0001-s00000001-x-1/model.safetensors", memoryview(bytes(24 << 20)))
    assert proxy.totals()["fault:status"] > 0
    proxy.clear()
    assert [] == store.list_objects("")
