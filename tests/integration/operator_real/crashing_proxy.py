"""A proxy between the operator and the API server that counts writes, and kills the operator at the one it is told.

The operator speaks plain HTTP to it over loopback, so that calls can be seen; it speaks TLS to the API server. Writes
of the Lease are let through uncounted: they depend on the clock alone.
"""

import http.client
import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from control_plane import ControlPlane

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
Moment = Literal["before", "after"]
_NOT_FORWARDED = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})


class CrashingProxy:
    """Serves from entering the context to leaving it.

    Attributes:
        writes: method and path of every counted write that has arrived.
    """

    def __init__(self, plane: ControlPlane, *, crash_at: int = 0, moment: Moment = "before") -> None:
        """Prepare.

        Args:
            plane: whose API server is asked.
            crash_at: number of the write at which the operator dies, 1 for the first; 0 for never.
            moment: before the API server hears of it, or after it has done it and before the operator hears of that.
        """
        self.writes: list[str] = []
        self.crash: Callable[[], None] = lambda: None
        self._plane, self._crash_at, self._moment = plane, crash_at, moment
        self._lock = threading.Lock()
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

    def _crashes(self, method: str, path: str) -> bool:
        """Count a write, and say whether it is the one."""
        if method not in WRITES or "/leases" in path:
            return False
        with self._lock:
            self.writes.append(f"{method} {path.partition('?')[0]}")
            return len(self.writes) == self._crash_at

    def _forward(self, handler: BaseHTTPRequestHandler) -> None:
        method, is_the_one = handler.command, self._crashes(handler.command, handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if is_the_one and self._moment == "before":
            self.crash()
            return
        address = urlsplit(self._plane.url)
        context = ssl.create_default_context(cafile=str(self._plane.ca_file))
        upstream = http.client.HTTPSConnection(str(address.hostname), address.port, context=context, timeout=400)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() not in _NOT_FORWARDED}
            upstream.request(method, handler.path, body or None, headers)
            answer = upstream.getresponse()
            if is_the_one:
                answer.read()
                self.crash()
                return
            self._answer(handler, answer)
        finally:
            upstream.close()

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse) -> None:
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_FORWARDED:
                handler.send_header(name, value)
        handler.send_header("Connection", "close")
        is_chunked = answer.getheader("Content-Length") is None  # a watch: its events may not wait for each other
        if is_chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while chunk := answer.read1(65536):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if is_chunked else chunk)
        if is_chunked:
            handler.wfile.write(b"0\r\n\r\n")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """One connection of the operator."""

            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                with suppress(OSError, http.client.HTTPException):  # the operator, or the test, is gone
                    proxy._forward(self)
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
