"""A run that exports into a bucket, killed between its last commit, its export and its final entry."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_site import Workers, config_of, make_data
from s3_server import S3Server
from store_bench import Site, s3_site

from sam3ft_faults.proxy import FaultProxy
from sam3ft_faults.rules import Rule
from sam3ft_trainer.export.publish import MANIFEST, is_in_place
from sam3ft_trainer.store.uri import parse_address


@pytest.fixture
def site(s3_server: S3Server, s3_bucket: str, proxy: FaultProxy, tmp_path: Path) -> Site:
    return s3_site(s3_server, s3_bucket, tmp_path, endpoint=proxy.endpoint)


@pytest.fixture
def start(site: Site, tmp_path: Path) -> Iterator[Callable[[], Workers]]:
    started: list[Workers] = []
    data = make_data(tmp_path / "data")

    def start_workers() -> Workers:
        config = config_of(
            site,
            data,
            scratch={"max_steps": 4},
            checkpoint={"every_steps": None},
            export={"uri": f"{site.address}/export"},
        )
        started.append(Workers(config, site, tmp_path / "work"))
        return started[-1]

    yield start_workers
    for workers in started:
        workers.kill()


def kinds(site: Site) -> list[str]:
    return [getattr(entry, "what", entry.kind) for entry in site.history().entries]


def assert_complete(site: Site, run: Workers) -> None:
    """The log ends with one export, which is in place, and the end of the run; the weights are the commit's."""
    (export,) = [entry for entry in site.history().finals if entry.what == "export"]
    assert export.export is not None
    assert (
        f"{site.address}/export"
        == export.export.address
        == json.loads((run.work_dir / "scores.json").read_text())["export"]
    )
    assert "bbox_AP" in export.meta.metrics
    assert export.meta.step == 4
    assert ["export", "run"] == [entry.what for entry in site.history().finals]
    store = site.store()
    assert {file.name for file in export.export.files} == {
        info.key.removeprefix("export/") for info in store.list_objects("export")
    }
    manifest = json.loads(store.get(f"export/{MANIFEST}"))
    assert manifest["files"] == {
        file.name: {"bytes": file.size, "sha256": file.sha256} for file in export.export.files if file.name != MANIFEST
    }
    assert parse_address(export.export.address).scheme == "s3"
    assert is_in_place(export.export, access=site.access())


@pytest.mark.slow
@pytest.mark.parametrize("entry", [3, 4])
def test_a_run_killed_before_its_export_or_its_end_is_recorded_exports_nothing_twice_and_loses_nothing(
    start: Callable[[], Workers], site: Site, proxy: FaultProxy, entry: int
) -> None:
    proxy.rules(Rule(fault="blackhole", methods=("PUT",), path=f"/log/0000000{entry}.json"))
    run = start()
    run.wait_for(lambda: proxy.struck() != [0])
    run.kill()
    proxy.clear()
    assert ["claim", "commit", *(["export"] if entry == 4 else [])] == kinds(site)
    site.look()

    again = start()
    assert [0] == again.wait(), again.log()[-3000:]

    site.look()  # not one byte of the export was written a second time
    assert ["claim", "commit", *(["export", "claim", "run"] if entry == 4 else ["claim", "export", "run"])] == kinds(
        site
    )
    assert (1 if entry == 4 else 2) == len(again.events("exported"))
    assert (1 if entry == 4 else 0) == len(again.events("export_found"))
    assert_complete(site, again)

    once_more = start()
    assert [0] == once_more.wait(), once_more.log()[-3000:]

    site.look()
    assert 1 == len(once_more.events("already_complete"))
    assert (1 if entry == 4 else 2) == len(once_more.events("exported"))
    assert_complete(site, once_more)


@pytest.mark.slow
def test_an_export_that_was_recorded_and_has_vanished_is_made_again(
    start: Callable[[], Workers], site: Site, proxy: FaultProxy
) -> None:
    proxy.rules(Rule(fault="blackhole", methods=("PUT",), path="/log/00000004.json"))
    run = start()
    run.wait_for(lambda: proxy.struck() != [0])
    run.kill()
    proxy.clear()
    site.store().delete(["export/model.safetensors"])

    again = start()
    assert [0] == again.wait(), again.log()[-3000:]
    assert 2 == len(again.events("exported"))
    assert ["export", "export", "run"] == [entry.what for entry in site.history().finals]
    assert is_in_place(site.history().finals[1].export, access=site.access())
