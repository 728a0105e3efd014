"""A collector of OpenTelemetry's metrics over HTTP: reads requests with the protocol's own classes.

The Prometheus of Debian 12 (2.42) has no receiver for OTLP; it came with 2.47.
"""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

Series = tuple[str, tuple[tuple[str, str], ...]]


class Collector:
    """What has been sent, and how it answers.

    Attributes:
        requests: every message that was taken.
        headers: of each.
        statuses: answers to the next requests in place of 200.
    """

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []
        self.address = ""

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        assert ("/v1/metrics", "application/x-protobuf") == (path, headers["content-type"])
        if self.statuses:
            return self.statuses.pop(0)
        self.headers.append(headers)
        self.requests.append(ExportMetricsServiceRequest.FromString(body))
        return 200

    def points(self) -> list[tuple[Series, float, int]]:
        """Return series, value and time (ns) of every data point, in the order of arrival."""
        return [
            ((metric.name, tuple(sorted((it.key, it.value.string_value) for it in point.attributes))), value, at_ns)
            for metric in self.metrics()
            for point in metric.gauge.data_points
            for value, at_ns in [(point.as_double, point.time_unix_nano)]
        ]

    def metrics(self) -> list[Any]:
        return [metric for _, scope in self._scopes() for metric in scope.metrics]

    def resources(self) -> list[dict[str, Any]]:
        """Return the attributes of each request's resource."""
        return [
            {it.key: it.value.string_value or it.value.int_value for it in resource.attributes}
            for resource, _ in self._scopes()
        ]

    def _scopes(self) -> Iterator[tuple[Any, Any]]:
        for request in self.requests:
            for whole in request.resource_metrics:
                for scope in whole.scope_metrics:
                    yield whole.resource, scope


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen on a port of 127.0.0.1."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            status = collector.take(self.path, headers, body)
            answer = ExportMetricsServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collector.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
