"""A failure of rank 0 is known before its sinks end and before its peers fail because it is gone."""

import socket
from pathlib import Path

import pytest
from run_site import Workers, config_of, make_data
from store_bench import folder_site
from waiting import wait_for

from sam3ft_api.exit_codes import ExitCode


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_failing_rank_0_with_a_silent_sink_has_left_its_word_before_its_peer_ends(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "thesis.pdf").write_text("mine")
    sections = {
        "scratch": {"max_steps": 2},
        "export": {"uri": str(tmp_path / "models")},
        "tracking": {"sinks": ["otlp"]},
    }
    site = folder_site(tmp_path / "site")
    config = config_of(site, make_data(tmp_path / "data"), **sections)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = Workers(config, site, tmp_path / "work", world_size=2, OTEL_EXPORTER_OTLP_ENDPOINT=address)
        wait_for("rank 0 has left its word", run.result_file(0).exists, within_s=300)
        assert [] == run.events("sinks_closed"), "its sinks have been waited for"
        assert [None, None] == [process.poll() for process in run.processes]
        codes = run.wait()

    assert [ExitCode.STORAGE_DENIED, ExitCode.PEER_LOST] == codes, run.log()[-3000:]
    assert ExitCode.STORAGE_DENIED == run.result()["code"]
    (closed,) = run.events("sinks_closed")
    assert closed["sinks"]["otlp"]["lost"] > 0
