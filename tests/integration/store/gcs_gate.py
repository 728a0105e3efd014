"""A gate before fake-gcs-server, which takes writes by Google's JSON interface only; obstore writes by the XML one.

Reads, lists and deletions pass as they are. A write becomes the JSON request that means the same, its condition
included; the server decides. A bucket that is not there is answered with Google's code, which the server lacks. The
pieces of a large object are kept here until it is complete.
"""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

_PASSED = ("Range", "Authorization", "Accept")
_BACK = ("Content-Type", "Content-Range", "ETag", "Last-Modified", "x-goog-generation", "x-goog-hash")
_CODES = {404: "NoSuchBucket", 412: "PreconditionFailed"}


class _Gate(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    upstream: ClassVar[tuple[str, int]]
    pieces: ClassVar[dict[str, dict[int, bytes]]] = {}

    def handle_one_request(self) -> None:
        """Serve one request, unless it ends in a client that has gone."""
        with suppress(ConnectionError):
            super().handle_one_request()

    def parse_request(self) -> bool:
        """Refuse every request to an unknown bucket; this is called before the request is served."""
        if not super().parse_request():
            return False
        bucket = urlsplit(self.path).path.lstrip("/").partition("/")[0]
        if self._ask("GET", f"/storage/v1/b/{bucket}", b"")[0].status != 404:
            return True
        self._body()
        self._answer(404, {}, b"<Error><Code>NoSuchBucket</Code></Error>")
        return False

    def do_GET(self) -> None:
        self._pass()

    def do_HEAD(self) -> None:
        self._pass()

    def do_DELETE(self) -> None:
        self._pass()

    def do_PUT(self) -> None:
        query, body = parse_qs(urlsplit(self.path).query), self._body()
        if "uploadId" in query:
            self.pieces[query["uploadId"][0]][int(query["partNumber"][0])] = body
            self._answer(200, {"ETag": '"piece"'})
            return
        generation = self.headers.get("x-goog-if-generation-match")
        self._write(body, {} if generation is None else {"ifGenerationMatch": generation})

    def do_POST(self) -> None:
        query, body = parse_qs(urlsplit(self.path).query, keep_blank_values=True), self._body()
        if "uploads" in query:
            upload = uuid.uuid4().hex
            self.pieces[upload] = {}
            self._answer(200, {}, f"<R><UploadId>{upload}</UploadId></R>".encode())
        elif "uploadId" in query:
            pieces = self.pieces.pop(query["uploadId"][0])
            self._write(b"".join(pieces[number] for number in sorted(pieces)), {}, xml=True)
        else:
            self._pass(body)

    def _write(self, body: bytes, condition: dict[str, str], *, xml: bool = False) -> None:
        bucket, _, key = urlsplit(self.path).path.lstrip("/").partition("/")
        terms = {"uploadType": "media", "name": unquote(key), **condition}
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in terms.items())
        response, content = self._ask("POST", f"/upload/storage/v1/b/{bucket}/o?{words}", body)
        if response.status != 200:
            code = _CODES.get(response.status, "Refused")
            self._answer(response.status, {}, f"<Error><Code>{code}</Code></Error>".encode())
            return
        made = json.loads(content)
        headers = {"ETag": f'"{made["etag"]}"', "x-goog-generation": str(made["generation"])}
        self._answer(200, headers, f"<R><ETag>{made['etag']}</ETag></R>".encode() if xml else b"")

    def _pass(self, body: bytes = b"") -> None:
        response, content = self._ask(self.command, self.path, body)
        headers = {name: value for name, value in response.getheaders() if name.lower() in map(str.lower, _BACK)}
        if self.command == "HEAD":
            headers["Content-Length"] = response.getheader("Content-Length", "0")
        self._answer(response.status, headers, content)

    def _ask(self, method: str, path: str, body: bytes) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(*self.upstream, timeout=30)
        headers = {name: self.headers[name] for name in _PASSED if name in self.headers}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def gate(host: str, upstream_port: int) -> Iterator[int]:
    """Run the gate while the context lasts; gives its port."""
    kind = type("Gate", (_Gate,), {"upstream": (host, upstream_port), "pieces": {}})
    with ThreadingHTTPServer((host, 0), kind) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()
