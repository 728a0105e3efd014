"""A run's store on every kind of server: saved, fenced, restored; and refused before anything starts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from store_sites import Site
from torch import Tensor

from sam3ft_api.errors import Fenced, InvalidConfig, StorageDenied
from sam3ft_api.training import CheckpointConfig, IdentityConfig, TrainingConfig
from sam3ft_trainer.run.preflight import reach_stores
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.reading import open_run_reader
from sam3ft_trainer.store.records import CommitMeta, RunFacts

MANY = 3 << 20


def _state(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model/weight": torch.randn(MANY, generator=generator),
        "optimizer/weight/exp_avg": torch.randn(100, generator=generator),
    }


def _open(site: Site, address: str) -> RunStore:
    facts = RunFacts(task="detection", numbers_digest="n" * 64, dataset_digest="d" * 64, model_digest="m" * 64)
    return open_run_store(
        CheckpointConfig(uri=address, keep_last=1, keep_best=0),
        IdentityConfig(),
        facts,
        rank=0,
        world_size=1,
        exchange=LocalExchange(),
        options=StoreOptions(outage_s=20, peer_timeout_s=60, access=site.access()),
    )


def test_what_was_saved_is_restored_and_superseded_commits_are_deleted(site: Site):
    address = site.fresh().address
    run = _open(site, address)
    for step in (1, 2):
        run.save(_state(step), CommitMeta(step=step), wait=True)
    run.close()
    targets = {name: torch.zeros_like(tensor) for name, tensor in _state(0).items()}

    again = _open(site, address)
    restored = again.restore(targets)
    again.close()

    assert restored is not None
    assert 2 == restored.meta.step
    assert all(torch.equal(tensor, targets[name]) for name, tensor in _state(2).items())
    kept = [info.prefix for info in site.open_at(address).list_prefixes("ckpt")]
    assert 1 == len(kept)


def test_an_older_incarnation_is_fenced(site: Site):
    address = site.fresh().address
    older = _open(site, address)
    newer = _open(site, address)

    with pytest.raises(Fenced):
        older.save(_state(1), CommitMeta(step=1), wait=True)
    newer.save(_state(2), CommitMeta(step=2), wait=True)
    for run in (older, newer):
        run.close()

    history = open_run_reader(address, access=site.access()).history()
    assert [2] == [commit.meta.step for commit in history.usable_commits()]


def _config(site: Site, uri: str, **sections: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"data": {"uri": "/data"}, "model": {"uri": "preset:tiny-nano"}, "checkpoint": {"uri": uri}, **sections}
    )


def test_stores_that_answer_pass_before_a_run(site: Site):
    uri = site.fresh().address

    reach_stores(_config(site, uri, export={"uri": uri}), site.access())


@pytest.mark.parametrize("which", ["checkpoint", "export"])
def test_a_missing_bucket_ends_a_run_before_it_starts(start_site: Callable[[str], Site], which: str):
    site = start_site("s3")
    uri = {"checkpoint": f"{site.bucket}/x", "export": f"{site.bucket}/x", which: "s3://missing/x"}

    with pytest.raises(StorageDenied, match="no such bucket"):
        reach_stores(_config(site, uri["checkpoint"], export={"uri": uri["export"]}), site.access())


def test_a_refused_endpoint_ends_a_run_before_it_starts(start_site: Callable[[str], Site]):
    site = start_site("s3").but(allowNetworks=[])

    with pytest.raises(InvalidConfig, match="allowNetworks"):
        reach_stores(_config(site, f"{site.bucket}/x"), site.access())


def test_folders_are_not_asked(tmp_path: Path, start_site: Callable[[str], Site]):
    site = start_site("folder")

    reach_stores(_config(site, str(tmp_path / "not" / "there")), site.access())

    assert [] == list(tmp_path.iterdir())
