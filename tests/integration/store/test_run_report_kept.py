"""The report of a real run whose machines come and go, from the bucket alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_site import Workers, config_of, make_data
from s3_server import S3Server
from store_bench import Site, s3_site

from sam3ft_api.exit_codes import ExitCode
from sam3ft_trainer.evaluate.report.history import history_of
from sam3ft_trainer.store.kept_report import read_report


def report(site: Site, to: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sam3ft_trainer", "report", *words, "--to", str(to), "-o", "json"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **site.environ},
    )


@pytest.mark.slow
def test_a_run_that_went_on_elsewhere_has_one_report_with_all_its_steps(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    site = s3_site(s3_server, s3_bucket, tmp_path)
    data = make_data(tmp_path / "data")
    sections: dict[str, Any] = {"scratch": {"max_steps": 40}, "checkpoint": {"every_steps": 4}}
    config = config_of(site, data, **sections)
    nothing = report(site, tmp_path / "none.html", "--kept-at", site.address)
    assert ExitCode.INVALID_CONFIG == nothing.returncode, nothing.stderr
    assert "keeps nothing to report" in nothing.stdout + nothing.stderr

    first = Workers(config, site, tmp_path / "here")
    first.wait_for(lambda: len(first.events("checkpoint_committed")) >= 2)
    first.wait_for(lambda: b"checkpoint_committed" in read_report(site.store()).events)
    first.kill()
    meanwhile = report(site, tmp_path / "meanwhile.html", "--kept-at", site.address)
    assert 0 == meanwhile.returncode, meanwhile.stderr
    assert "tiny-nano" in (tmp_path / "meanwhile.html").read_text()

    again = Workers(config, site, tmp_path / "elsewhere", SAM3FT_ATTEMPT="2")
    assert [ExitCode.SUCCEEDED] == again.wait(), again.log()[-3000:]

    kept = read_report(site.store())
    history = history_of(kept.events)
    steps = [interval.step for interval in history.intervals]
    assert 2 == history.attempts
    assert steps == sorted(set(steps))
    assert 40 == steps[-1]
    resumed = again.events("resumed")[0]["step"]
    assert set(range(1, resumed + 1)) <= set(steps), "what was committed before the kill is in the curves"
    assert [] == again.events("events_not_kept")

    done = report(site, tmp_path / "done.html", "--kept-at", site.address)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert str(tmp_path / "done.html") == json.loads(done.stdout)["report"]
    page = (tmp_path / "done.html").read_bytes()
    assert page == (tmp_path / "elsewhere" / "report.html").read_bytes() == kept.page
    assert b"resumed from step" in page

    once_more = Workers(config, site, tmp_path / "third", SAM3FT_ATTEMPT="3")
    assert [ExitCode.SUCCEEDED] == once_more.wait()
    assert kept == read_report(site.store()), "whoever finds the run complete leaves its report alone"
