"""Curves to a collector of OpenTelemetry, as gauges over HTTP with protobuf.

The names are others than the coordinator's series (docs/metrics.md), so that a Prometheus behind the collector can hold
both. Each value has the time at which it was known, not that of its sending.
"""

import logging
from dataclasses import dataclass
from typing import Any

from sam3ft_trainer.imports import without_collection
from sam3ft_trainer.run.sinks.sink import Point, SinkContext, SinkUnusable


@dataclass(frozen=True, slots=True)
class Instrument:
    """One gauge.

    Attributes:
        name: as the collector gets it.
        unit: in UCUM; braces hold what is counted. A bare 1 would become `_ratio` in Prometheus, which a loss is not.
        text: what it is.
    """

    name: str
    unit: str
    text: str


STEP = Instrument("sam3ft.curve.step", "{step}", "Finished optimizer steps.")
CURVES = {
    "train/loss": Instrument("sam3ft.curve.loss", "{loss}", "Loss of the step."),
    "train/grad_norm": Instrument("sam3ft.curve.gradient_norm", "{norm}", "L2 norm of the gradient before clipping."),
    "train/lr": Instrument("sam3ft.curve.learning_rate", "{rate}", "Learning rate of the transformer."),
}
TERM = Instrument("sam3ft.curve.loss_term", "{loss}", "Term of the loss before its weight, by `term`.")
SCORE = Instrument("sam3ft.curve.score", "{score}", "Score of an evaluation, by `split` and `metric`.")


def instrument_of(name: str) -> tuple[Instrument, dict[str, str]]:
    """Return the gauge of a curve and the attributes of its value."""
    if name in CURVES:
        return CURVES[name], {}
    group, _, rest = name.partition("/")
    return (TERM, {"term": rest}) if group == "terms" else (SCORE, {"split": group, "metric": rest})


class _Heard(logging.Handler):
    """Keeps what the exporter says first of a failure, the cause: it returns no more than that there was one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first message since `words` was emptied, in place of lines on standard error."""
        self.words = self.words or record.getMessage()


class OtlpSink:
    """Sends each point in one request; address and headers are the exporter's own variables."""

    def __init__(self) -> None:
        """Hold no exporter yet."""
        self._exporter: Any = None
        self._resource: Any = None
        self._heard = _Heard()

    def open(self, context: SinkContext) -> None:
        """Make the exporter; whether anybody listens shows with the first point.

        Raises:
            SinkUnusable: the library is missing.
        """
        try:
            with without_collection():
                from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
                from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise SinkUnusable(
                f"opentelemetry cannot be imported ({error}); install it with: pip install 'sam3ft[otlp]'"
            ) from error
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self._heard)
        logger.propagate = False
        # Not Resource.create: its detectors add the process, its command line and the host.
        self._resource = Resource(
            {
                "service.name": "sam3ft",
                "sam3ft.run": context.run,
                "sam3ft.uid": context.uid,
                "sam3ft.attempt": context.attempt,
            }
        )
        self._exporter = OTLPMetricExporter()

    def scalars(self, point: Point) -> None:
        """Send the values, and the step as one more.

        Raises:
            ConnectionError: they were refused, or nobody answered within the exporter's time-out.
        """
        from opentelemetry.sdk.metrics.export import MetricExportResult  # noqa: PLC0415 - imported by `open` already

        self._heard.words = ""
        if self._exporter.export(self._message(point)) is not MetricExportResult.SUCCESS:
            raise ConnectionError(self._heard.words or "the collector did not take the values")

    def close(self, *, is_complete: bool) -> None:  # noqa: ARG002 - a collector knows no end of a run
        """End the connection."""
        self._exporter.shutdown()

    def _message(self, point: Point) -> Any:
        from opentelemetry.sdk.metrics import export  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        at_ns = int(point.unix_s * 1e9)
        points: dict[Instrument, list[Any]] = {}
        for instrument, attributes, value in (
            (STEP, {}, float(point.step)),
            *((*instrument_of(name), value) for name, value in point.values.items()),
        ):
            made = export.NumberDataPoint(
                attributes=attributes, start_time_unix_nano=0, time_unix_nano=at_ns, value=value
            )
            points.setdefault(instrument, []).append(made)
        metrics = [
            export.Metric(
                name=instrument.name,
                description=instrument.text,
                unit=instrument.unit,
                data=export.Gauge(data_points=data),
            )
            for instrument, data in points.items()
        ]
        scope = export.ScopeMetrics(scope=InstrumentationScope("sam3ft"), metrics=metrics, schema_url="")
        resource = export.ResourceMetrics(resource=self._resource, scope_metrics=[scope], schema_url="")
        return export.MetricsData(resource_metrics=[resource])
