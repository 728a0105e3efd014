"""A real run that is killed finds its newest commit on the node."""

from collections.abc import Callable
from pathlib import Path

import pytest
from run_site import Workers, config_of, make_data
from s3_server import S3Server
from store_bench import Site, harm, s3_site


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_a_killed_run_resumes_from_the_copy_on_its_node_and_from_the_bucket_where_that_is_damaged(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, world_size: int
) -> None:
    site = s3_site(s3_server, s3_bucket, tmp_path)
    cache = tmp_path / "cache"
    config = config_of(site, make_data(tmp_path / "data"), scratch={"max_steps": 10_000}, checkpoint={"every_steps": 4})

    def start() -> Workers:
        return Workers(config, site, tmp_path / "work", world_size=world_size, SAM3FT_CACHE_DIR=str(cache))

    run = start()
    run.wait_for(lambda: run.events("copy_written"))
    run.evict(in_s=None)
    assert [20] * world_size == run.wait(), run.log()[-3000:]
    newest = site.history().usable_commits()[0]
    run = kill_with_a_copy_of_the_newest_commit(start, site, cache)
    assert newest.meta.step == run.events("resumed")[0]["step"]

    resumed_from = site.history().usable_commits()[0]
    copied = list(cache.rglob("*.safetensors"))
    for path in copied:
        harm(path, "flip")
    told, starts = len(run.events("checkpoint_committed")), len(run.events("resumed"))
    run = start()
    run.wait_for(lambda: len(run.events("checkpoint_committed")) > told)
    run.kill()

    assert resumed_from.meta.step == run.events("resumed")[starts]["step"]
    assert {path.name for path in copied} >= {event["key"].rpartition("/")[2] for event in run.events("copy_damaged")}
    assert run.events("copy_damaged")
    assert [] == [entry for entry in site.history().retired().values() if entry.reason == "damaged"]


def kill_with_a_copy_of_the_newest_commit(start: Callable[[], Workers], site: Site, cache: Path) -> Workers:
    """A kill may come while a copy is being replaced; then the run is started and killed once more."""
    for _ in range(8):
        run = start()
        told = len(run.events("copy_written"))
        run.wait_for(lambda run=run, told=told: len(run.events("copy_written")) > told)
        run.kill()
        copied = {f"{path.parent.name}/{path.name}" for path in cache.rglob("*.safetensors")}
        commit = site.history().usable_commits()[0]
        if copied == {"/".join(file.key.split("/")[-2:]) for file in commit.files if file.key.endswith(".safetensors")}:
            return run
    raise AssertionError("eight kills, and each time the copy on the node was not of the newest commit")
