"""The last lines of a real run's failing rank outlive its machine."""

from pathlib import Path

import pytest
from run_site import Workers, config_of, make_data
from s3_server import S3Server
from store_bench import s3_site

from sam3ft_api.exit_codes import ExitCode
from sam3ft_trainer.store.tails import TAIL_BYTES, read_tails


@pytest.mark.slow
def test_lines_of_a_killed_worker_and_of_a_failing_one_are_in_the_bucket(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    site = s3_site(s3_server, s3_bucket, tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "thesis.pdf").write_text("mine")
    data = make_data(tmp_path / "data")
    sections = {"scratch": {"max_steps": 60}, "checkpoint": {"every_steps": 2}}
    config = config_of(site, data, **sections, export={"uri": str(tmp_path / "models")})
    run = Workers(config, site, tmp_path / "work")
    run.wait_for(lambda: run.events("checkpoint_committed"))
    run.kill()
    assert [] == read_tails(site.store())
    again = Workers(config, site, tmp_path / "work", SAM3FT_ATTEMPT="2")
    assert [ExitCode.STORAGE_DENIED] == again.wait(), again.log()[-3000:]

    failed, killed = read_tails(site.store())
    assert (2, 0, "13") == (failed.attempt, failed.rank, failed.end)
    assert "thesis.pdf" in failed.text.splitlines()[-1]
    assert (1, 0, "killed") == (killed.attempt, killed.rank, killed.end)
    assert '"event": "checkpoint_committed"' in killed.text
    assert '"attempt": 2' not in killed.text
    assert all(len(tail.text.encode()) <= TAIL_BYTES for tail in (failed, killed))
