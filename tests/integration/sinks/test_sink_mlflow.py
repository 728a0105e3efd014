"""MLflow's own client against MLflow's own tracking server: one run of theirs for all attempts, and what it holds."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_site import is_ready
from ports import free_port
from waiting import wait_for

from sam3ft_trainer.run.sinks.mlflow_sink import MlflowSink
from sam3ft_trainer.run.sinks.sink import Point, SinkContext, SinkUnusable

SITE = Path(__file__).parent / "mlflow_site.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server, which ends with the module's tests."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, str(SITE), str(port), str(folder)], stdout=log, stderr=log)
    try:
        wait_for("MLflow answers", lambda: is_ready(f"http://127.0.0.1:{port}"), within_s=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def address(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return server


def context(folder: Path, *, key: str, attempt: int = 1, **settings: str) -> SinkContext:
    return SinkContext("blood", "uid-'1", key, attempt, "cells", folder, settings)


def opened(given: SinkContext) -> MlflowSink:
    sink = MlflowSink()
    sink.open(given)
    return sink


def test_all_attempts_are_one_run_with_its_curves_and_settings(address: str, tmp_path: Path):
    key = "a" * 32
    settings = {f"optim.s{number}": str(number) for number in range(150)}
    first = opened(context(tmp_path, key=key, **settings))
    first.scalars(Point(10, 1_764_000_000.0, {"train/loss": 1.5, "valid/bbox_AP": 0.5, "terms/zähler?": 1.0}))
    first.close(is_complete=False)
    second = opened(context(tmp_path, key=key, attempt=2, **settings | {"optim.s0": "changed", "optim.new": "x"}))
    second.scalars(Point(10, 1_764_000_100.0, {"train/loss": 1.25}))
    second.scalars(Point(20, 1_764_000_200.0, {"train/loss": 1.0}))
    second.close(is_complete=True)

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("cells")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], filter_string=f"tags.`sam3ft.key` = '{key}'")
    assert ("FINISHED", "blood") == (run.info.status, run.info.run_name)
    assert {"train/loss": 1.0, "valid/bbox_AP": 0.5, "terms/z_hler_": 1.0} == run.data.metrics
    history = [(it.step, it.value, it.timestamp) for it in client.get_metric_history(run.info.run_id, "train/loss")]
    assert {(10, 1.5, 1_764_000_000_000), (10, 1.25, 1_764_000_100_000), (20, 1.0, 1_764_000_200_000)} == set(history)
    assert settings | {"optim.new": "x"} == run.data.params
    assert ("uid-'1", "2") == (run.data.tags["sam3ft.uid"], run.data.tags["sam3ft.attempt"])
    assert not {tag for tag in run.data.tags if tag.startswith("mlflow.source")}


def test_a_run_that_is_interrupted_says_so_and_another_run_is_another(address: str, tmp_path: Path):
    for key in ("b" * 32, "c" * 32):
        opened(context(tmp_path, key=key)).close(is_complete=False)

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("cells")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], filter_string="attributes.status = 'KILLED'")
    assert {"b" * 32, "c" * 32} == {run.data.tags["sam3ft.key"] for run in runs}


def test_a_sink_that_sends_twice_loses_nothing(address: str, tmp_path: Path):
    sink = opened(context(tmp_path, key="d" * 32))
    for _ in range(2):
        sink.scalars(Point(10, 1_764_000_000.0, {"train/loss": 1.5}))

    assert {"train/loss": 1.5} == MlflowClient(tracking_uri=address).get_run(sink._run_id).data.metrics


def test_without_an_address_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    with pytest.raises(SinkUnusable, match="MLFLOW_TRACKING_URI is not set"):
        opened(context(tmp_path, key="e" * 32))


def test_nobody_there_is_an_error_that_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(Exception, match="refused") as raised:
        opened(context(tmp_path, key="f" * 32))
    assert not isinstance(raised.value, SinkUnusable)
