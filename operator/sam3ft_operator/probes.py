"""The operator's own HTTP: /healthz, /readyz and /metrics, in threads that share nothing with the work."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, socket
from typing import Any

from sam3ft_operator.metrics import CONTENT_TYPE

WITHIN_S = 5.0
"""A client that does not send its request in this time is cut off."""
AT_ONCE = 16
"""Clients that are served at the same time; more are closed at once."""

Check = Callable[[], list[str]]
"""Returns what is wrong; empty when all is well."""


class Probes:
    """Serves until closed."""

    def __init__(self, host: str, port: int, *, live: Check, ready: Check, metrics: Callable[[], bytes]) -> None:
        """Open the port; `start` begins to serve.

        Args:
            host: address to listen on.
            port: port; 0 takes a free one.
            live: what should make Kubernetes start this process anew.
            ready: what keeps this process from its work.
            metrics: text for a scrape.

        Raises:
            OSError: the port is taken, or the address is not this machine's.
        """
        self._server = _Server((host, port), _handler(live, ready, metrics), is_ipv6=":" in host)
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)

    @property
    def port(self) -> int:
        """Where it really listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def close(self) -> None:
        """End, and free the port."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], *, is_ipv6: bool) -> None:
        self.address_family = AF_INET6 if is_ipv6 else AF_INET
        self._places = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A client that breaks off is nobody's concern."""


def _handler(live: Check, ready: Check, metrics: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = WITHIN_S
        server_version = "sam3ft"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE, metrics())
            elif self.path in ("/healthz", "/readyz"):
                wrong = (live if self.path == "/healthz" else ready)()
                body = "".join(f"{line}\n" for line in wrong) or "ok\n"
                self._answer(503 if wrong else 200, "text/plain; charset=utf-8", body.encode())
            else:
                self._answer(404, "text/plain; charset=utf-8", b"/healthz, /readyz and /metrics are here\n")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Probes come every few seconds; they are not logged."""

    return Handler
