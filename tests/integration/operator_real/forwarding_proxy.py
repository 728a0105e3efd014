"""A proxy between the operator and the API server; what it does to the traffic is decided by whoever extends it.

The operator speaks plain HTTP to it over loopback, so that calls can be seen; it speaks TLS to the API server.
"""

import http.client
import json
import ssl
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from control_plane import ControlPlane

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_NOT_FORWARDED = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})
_LONGEST_WATCH_S = 400.0


class ForwardingProxy:
    """Serves from entering the context to leaving it; forwards everything as it is."""

    def __init__(self, plane: ControlPlane) -> None:
        """Open a port; nothing is served yet."""
        self._plane = plane
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    def kubeconfig(self, original: Path, target: Path) -> Path:
        """Write a kubeconfig that leads here, with the credentials of another one; returns its path."""
        document = json.loads(original.read_text())
        document["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}
        target.touch(mode=0o600)
        target.write_text(json.dumps(document))
        return target

    def __enter__(self) -> Self:
        """Serve."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Ask the API server and answer the operator; the connection is closed afterwards."""
        with self.asked(handler, body, handler.path) as answer:
            self.pass_on(handler, answer)

    def asked(self, handler: BaseHTTPRequestHandler, body: bytes, path: str) -> "Upstream":
        """Return the question to the API server; entering it asks and returns the answer."""
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in _NOT_FORWARDED}
        return Upstream(self._plane, handler.command, path, body, headers)

    @staticmethod
    def begin(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse) -> bool:
        """Send status and headers; returns whether the body goes in chunks, as that of a watch does."""
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_FORWARDED:
                handler.send_header(name, value)
        handler.send_header("Connection", "close")
        is_chunked = answer.getheader("Content-Length") is None
        if is_chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        return is_chunked

    @staticmethod
    def send_chunk(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Send one chunk; an empty one ends the body."""
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    @classmethod
    def pass_on(cls, handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse) -> None:
        """Answer as the API server did, each part as soon as it comes."""
        is_chunked = cls.begin(handler, answer)
        while chunk := answer.read1(65536):
            if is_chunked:
                cls.send_chunk(handler, chunk)
            else:
                handler.wfile.write(chunk)
        if is_chunked:
            cls.send_chunk(handler, b"")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """One connection of the operator."""

            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                self.close_connection = True
                with suppress(OSError, http.client.HTTPException):  # the operator, the server or the test is gone
                    proxy.forward(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler


class Upstream:
    """One question to the API server, asked on entering and hung up on leaving."""

    def __init__(self, plane: ControlPlane, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Prepare; nothing is sent."""
        address = urlsplit(plane.url)
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        self._connection = http.client.HTTPSConnection(
            str(address.hostname), address.port, context=context, timeout=_LONGEST_WATCH_S
        )
        self._request = (method, path, body or None, headers)

    def __enter__(self) -> http.client.HTTPResponse:
        """Ask; returns the answer once its headers are there."""
        self._connection.request(*self._request)
        return self._connection.getresponse()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self._connection.close()
