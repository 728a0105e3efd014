"""A real run that is killed finds its newest commit on the node."""

from pathlib import Path

import pytest
from run_site import Workers, config_of, make_data
from s3_server import S3Server
from store_bench import harm, s3_site


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
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
    told = len(run.events("copy_written"))
    run = start()
    run.wait_for(lambda: len(run.events("copy_written")) > told)
    run.kill()
    copied = list(cache.rglob("*.safetensors"))
    resumed_from = site.history().usable_commits()[0]
    assert newest.meta.step == run.events("resumed")[0]["step"]

    for path in copied:
        harm(path, "flip")
    told = len(run.events("checkpoint_committed"))
    run = start()
    run.wait_for(lambda: len(run.events("checkpoint_committed")) > told)
    run.kill()

    assert resumed_from.meta.step == run.events("resumed")[1]["step"]
    assert {path.name for path in copied} >= {event["key"].rpartition("/")[2] for event in run.events("copy_damaged")}
    assert run.events("copy_damaged")
    assert [] == [entry for entry in site.history().retired().values() if entry.reason == "damaged"]
