"""An S3 server that throws large bodies away: with it the client is the limit of an upload.

    python -m benchmarks.s3_sink [CORE]

Prints its port and runs until its standard input closes. It keeps sizes of all objects and the bytes of small ones,
knows conditional writes, multipart uploads, listings and deletions as far as a run's store needs them, and checks no
signature. Never use it for anything but measuring.
"""

import os
import re
import socket
import sys
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

KEPT_BYTES = 1 << 20
"""Larger bodies are thrown away."""
_BUFFER = 1 << 20
_DATE = "Wed, 25 Nov 2026 00:00:00 GMT"


@dataclass
class Objects:
    """What the server remembers."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sizes: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Serve until the program that started this one goes away."""
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    objects = Objects()

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection, objects), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


def _serve(connection: socket.socket, objects: Objects) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    pending = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in pending:
                got = connection.recv(65536)
                if not got:
                    return
                pending += got
            head, _, pending = pending.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            if headers.get("expect"):
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            size = int(headers.get("content-length", "0"))
            body, pending = _take_body(connection, buffer, pending, size)
            parts = urlsplit(target)
            query = parse_qs(parts.query, keep_blank_values=True)
            status, answer, more = _answer(objects, _Request(method, unquote(parts.path), query, headers, size, body))
            reply = f"HTTP/1.1 {status} X\r\nDate: {_DATE}\r\nLast-Modified: {_DATE}\r\n{more}"
            if "Content-Length" not in more:
                reply += f"Content-Length: {len(answer)}\r\n"
            connection.sendall(reply.encode() + b"\r\n" + (b"" if method == "HEAD" else answer))


def _take_body(connection: socket.socket, buffer: memoryview, pending: bytes, size: int) -> tuple[bytes, bytes]:
    keep = size <= KEPT_BYTES
    kept = bytearray(pending[:size]) if keep else bytearray()
    left, rest = size - min(size, len(pending)), pending[size:]
    while left:
        count = connection.recv_into(buffer[: min(left, _BUFFER)])
        if not count:
            raise ConnectionError
        left -= count
        if keep:
            kept += buffer[:count]
    return bytes(kept), rest


@dataclass(frozen=True)
class _Request:
    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    size: int
    body: bytes


_Answer = tuple[int, bytes, str]


def _answer(objects: Objects, request: _Request) -> _Answer:
    with objects.lock:
        if {"uploadId", "uploads"} & request.query.keys():
            return _multipart(objects, request)
        if request.method in {"GET", "HEAD"}:
            return _read(objects, request)
        return _write(objects, request)


def _multipart(objects: Objects, request: _Request) -> _Answer:
    if "uploads" in request.query:
        name = f"u{len(objects.uploads)}"
        objects.uploads[name] = 0
        return 200, _xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>"), ""
    name = request.query["uploadId"][0]
    if request.method == "PUT":
        objects.uploads[name] += request.size
        return 200, b"", 'ETag: "part"\r\n'
    objects.sizes[request.key] = objects.uploads[name]
    return 200, _xml("CompleteMultipartUploadResult", "<ETag>&quot;x&quot;</ETag>"), ""


def _write(objects: Objects, request: _Request) -> _Answer:
    key = request.key
    if request.method == "POST":
        names = re.findall(r"<Key>(.*?)</Key>", request.body.decode())
        for name in names:
            objects.sizes.pop(f"/{key.strip('/')}/{name}", None)
        return 200, _xml("DeleteResult", "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)), ""
    if request.method == "DELETE":
        objects.sizes.pop(key, None)
        return 204, b"", ""
    if request.headers.get("if-none-match") == "*" and key in objects.sizes:
        return 412, _xml("Error", "<Code>PreconditionFailed</Code>"), ""
    objects.sizes[key] = request.size
    if request.size <= KEPT_BYTES:
        objects.bodies[key] = request.body
    return 200, b"", 'ETag: "x"\r\n'


def _read(objects: Objects, request: _Request) -> _Answer:
    key = request.key
    if "list-type" in request.query:
        content = _listing(objects, key, request.query.get("prefix", [""])[0])
        return 200, content, "Content-Type: application/xml\r\n"
    if key not in objects.sizes:
        return 404, _xml("Error", "<Code>NoSuchKey</Code>"), ""
    answer = objects.bodies.get(key, b"")
    length = objects.sizes[key] if request.method == "HEAD" else len(answer)
    return 200, answer, f'ETag: "x"\r\nContent-Length: {length}\r\n'


def _listing(objects: Objects, bucket: str, prefix: str) -> bytes:
    start = bucket.rstrip("/") + "/"
    rows = [
        f"<Contents><Key>{key[len(start) :]}</Key><Size>{size}</Size><ETag>&quot;x&quot;</ETag>"
        "<LastModified>2026-11-25T00:00:00.000Z</LastModified></Contents>"
        for key, size in sorted(objects.sizes.items())
        if key.startswith(start + prefix)
    ]
    return _xml("ListBucketResult", "<IsTruncated>false</IsTruncated>" + "".join(rows))


def _xml(name: str, content: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'.encode()


if __name__ == "__main__":
    main()
