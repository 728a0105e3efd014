"""OpenTelemetry's own exporter against a collector that reads the protocol: what arrives, and what failures say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from collector import Collector, collecting

from sam3ft_trainer.run.sinks.otlp_sink import OtlpSink
from sam3ft_trainer.run.sinks.sink import Point, SinkContext

CONTEXT = SinkContext("blood", "uid-1", "0" * 32, 3, "sam3ft", Path())


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        yield found


def opened() -> OtlpSink:
    sink = OtlpSink()
    sink.open(CONTEXT)
    return sink


def test_every_curve_arrives_as_a_gauge_at_its_time(collector: Collector):
    sink = opened()
    sink.scalars(Point(10, 1_764_000_000.5, {"train/loss": 1.5, "terms/loss_bbox": 0.25, "valid/bbox_AP": 0.5}))
    sink.scalars(Point(20, 1_764_000_010.0, {"train/lr": 1e-4}))
    sink.close(is_complete=True)

    first, second = 1_764_000_000_500_000_000, 1_764_000_010_000_000_000
    expected = {
        (("sam3ft.curve.step", ()), 10.0, first),
        (("sam3ft.curve.loss", ()), 1.5, first),
        (("sam3ft.curve.loss_term", (("term", "loss_bbox"),)), 0.25, first),
        (("sam3ft.curve.score", (("metric", "bbox_AP"), ("split", "valid"))), 0.5, first),
        (("sam3ft.curve.step", ()), 20.0, second),
        (("sam3ft.curve.learning_rate", ()), 1e-4, second),
    }
    assert expected == set(collector.points())
    assert len(expected) == len(collector.points())


def test_the_resource_says_whose_curves_they_are_and_nothing_of_the_machine(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=vm1")
    sink = opened()
    sink.scalars(Point(10, 1_764_000_000.0, {"train/loss": 1.5}))

    whose = {"service.name": "sam3ft", "sam3ft.run": "blood", "sam3ft.uid": "uid-1", "sam3ft.attempt": 3}
    assert [whose] == collector.resources()


def test_headers_of_the_environment_are_sent(collector: Collector, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    opened().scalars(Point(10, 1_764_000_000.0, {"train/loss": 1.5}))

    assert ["Bearer abc"] == [headers["authorization"] for headers in collector.headers]


def test_what_is_refused_raises_with_the_reason_and_the_next_point_arrives(
    collector: Collector, capfd: pytest.CaptureFixture[str]
):
    collector.statuses += [400]
    sink = opened()
    with pytest.raises(ConnectionError, match="400"):
        sink.scalars(Point(10, 1_764_000_000.0, {"train/loss": 1.5}))
    sink.scalars(Point(20, 1_764_000_000.0, {"train/loss": 1.25}))

    assert {1.25, 20.0} == {value for _, value, _ in collector.points()}
    assert ("", "") == capfd.readouterr()


def test_nobody_there_raises_within_the_time_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")

    with pytest.raises(ConnectionError, match="Connection refused"):
        opened().scalars(Point(10, 1_764_000_000.0, {"train/loss": 1.5}))
