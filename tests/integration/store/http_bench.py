"""A server that answers every request as it is told, and remembers what was asked."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme
from ports import HOST


@dataclass
class Asked:
    """One request; names of headers in small letters."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What is answered; None as the status breaks the connection instead."""

    status: int | None
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Told:
    """The running server."""

    def __init__(self, reply: Callable[[Asked], Reply], url: str) -> None:
        self.reply, self.url = reply, url
        self.asked: list[Asked] = []


@contextmanager
def told_server(reply: Callable[[Asked], Reply], *, authority: Path | None = None) -> Iterator[Told]:
    """Run it while the context lasts; with `authority`, by TLS, and the authority's certificate is written there."""
    with ThreadingHTTPServer((HOST, 0), _Handler) as server:
        server.daemon_threads = True
        if authority is not None:
            signer = trustme.CA()
            signer.cert_pem.write_to_path(str(authority))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            signer.issue_cert(HOST).configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        told = Told(reply, f"http{'s' if authority else ''}://{HOST}:{server.server_address[1]}")
        server.told = told  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield told
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        told: Told = self.server.told  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        told.asked.append(asked)
        reply = told.reply(asked)
        if reply.status is None:
            self.close_connection = True
            return
        content = reply.body.encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Say nothing."""
