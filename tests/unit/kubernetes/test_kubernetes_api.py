"""The client: bounded in rate and time, whatever the server does."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sam3ft_launch.kubernetes import api
from sam3ft_launch.kubernetes.api import Api, ApiProblem, ApiSettings
from sam3ft_launch.kubernetes.kinds import POD
from sam3ft_launch.kubernetes.pace import ServerClock, TokenBucket

Serve = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """An HTTP server that answers as a test wants, and a client for it."""

    def __init__(self, folder: Path) -> None:
        """Listen."""
        self.serve: Serve = lambda handler: handler.send_error(500)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                outer.requests.append((self.command, self.path, dict(self.headers)))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.serve(self)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = answer

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}/"}}],
            "users": [{"name": "a", "user": {"token": "t0k3n"}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(kubeconfig))
        self.counted: list[tuple[str, str, int]] = []
        self.slept: list[float] = []
        self.api = Api(
            ApiSettings(kubeconfig=str(path)),
            count=lambda *what: self.counted.append(what),
            sleep=self.slept.append,
        )

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def answer(code: int, body: object, **headers: str) -> Serve:
    """Return an answer with JSON."""

    def serve(handler: BaseHTTPRequestHandler) -> None:
        content = json.dumps(body).encode()
        handler.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return serve


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server."""
    found = Server(tmp_path)
    yield found
    found.close()


def test_a_request_goes_to_its_address_with_its_token_and_is_counted(server: Server) -> None:
    server.serve = answer(201, {"metadata": {"name": "a"}})
    made = server.api.create(POD, "lab", {"metadata": {"name": "a"}}, manager="m")
    method, path, headers = server.requests[0]

    assert {"metadata": {"name": "a"}} == made
    assert ("POST", "/api/v1/namespaces/lab/pods?fieldManager=m&fieldValidation=Strict") == (method, path)
    assert "t0k3n" == headers["authorization"].split()[-1]
    assert [("create", "Pod", 201)] == server.counted


def test_what_the_server_refuses_is_a_problem_with_its_words(server: Server) -> None:
    server.serve = answer(409, {"kind": "Status", "reason": "AlreadyExists", "message": "pods a exists"})
    with pytest.raises(ApiProblem, match="409 AlreadyExists: pods a exists") as caught:
        server.api.create(POD, "lab", {"metadata": {"name": "a"}}, manager="m")

    assert (409, "AlreadyExists") == (caught.value.code, caught.value.reason)


def test_reading_is_repeated_when_the_server_is_not_well_and_writing_is_not(server: Server) -> None:
    server.serve = answer(503, {})
    for call in (lambda: server.api.get(POD, "lab", "a"), lambda: server.api.delete(POD, "lab", "a")):
        with pytest.raises(ApiProblem):
            call()

    assert ["GET", "GET", "GET", "DELETE"] == [method for method, _, _ in server.requests]


def test_a_server_that_is_too_busy_makes_everybody_wait(server: Server) -> None:
    server.serve = answer(429, {}, Retry_After="7")
    with pytest.raises(ApiProblem) as caught:
        server.api.get(POD, "lab", "a")
    server.serve = answer(200, {})
    server.api.get(POD, "lab", "a")

    assert 7.0 == caught.value.retry_after_s
    assert 6.0 < server.slept[-1] <= 7.0


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"text"', b""])
def test_an_answer_that_is_no_object_is_a_problem(server: Server, body: bytes) -> None:
    def serve(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    server.serve = serve
    with pytest.raises(ApiProblem, match="no JSON"):
        server.api.delete(POD, "lab", "a")


def test_an_answer_that_is_nested_too_deeply_is_read_all_the_same(server: Server) -> None:
    deep = b'{"metadata":{"name":"a"},"spec":' + b"[" * 5000 + b"]" * 5000 + b"}"

    def serve(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(deep)))
        handler.end_headers()
        handler.wfile.write(deep)

    server.serve = serve

    assert {"name": "a"} == server.api.get(POD, "lab", "a")["metadata"]


def test_a_write_that_is_not_answered_ends(server: Server) -> None:
    server.api._answer_s = 0.2
    server.serve = lambda _: time.sleep(1.0)
    begun_s = time.monotonic()
    with pytest.raises(ApiProblem, match="no answer"):
        server.api.delete(POD, "lab", "a")

    assert time.monotonic() - begun_s < 0.9
    assert [("delete", "Pod", 0)] == server.counted


def chunked(handler: BaseHTTPRequestHandler, *parts: bytes) -> None:
    """Begin a stream and send these parts, each at once."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for part in parts:
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        handler.wfile.flush()


def test_events_of_a_stream_come_as_soon_as_they_are_complete(server: Server) -> None:
    go_on = threading.Event()

    def serve(handler: BaseHTTPRequestHandler) -> None:
        chunked(handler, b'{"type":"ADDED"}\n{"type":', b'"MODIFIED"}\n')
        go_on.wait(5)
        handler.wfile.write(b"0\r\n\r\n")

    server.serve = serve
    events = server.api.stream(POD, "lab", {"labelSelector": "a=b"}, silence_s=5.0)
    first_two = [next(events)["type"], next(events)["type"]]
    go_on.set()

    assert ["ADDED", "MODIFIED"] == first_two
    assert [] == list(events)
    assert "watch=true&allowWatchBookmarks=true&labelSelector=a%3Db" in server.requests[0][1]


def test_a_silent_stream_is_dead(server: Server) -> None:
    def serve(handler: BaseHTTPRequestHandler) -> None:
        chunked(handler, b'{"type":"ADDED"}\n')
        time.sleep(1.0)

    server.serve = serve
    events = server.api.stream(POD, "lab", {}, silence_s=0.2)
    next(events)
    with pytest.raises(ApiProblem, match="no answer Broken"):
        next(events)


def test_a_stream_that_is_refused_says_why(server: Server) -> None:
    server.serve = answer(410, {"reason": "Expired", "message": "too old"})
    with pytest.raises(ApiProblem, match="410 Expired: too old"):
        next(server.api.stream(POD, "lab", {}, silence_s=5.0))


def test_an_event_without_an_end_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_LINE_BYTES", 1000)
    server.serve = lambda handler: chunked(handler, b"[" * 5000)
    with pytest.raises(ApiProblem, match="more than 1000 bytes"):
        next(server.api.stream(POD, "lab", {}, silence_s=5.0))


def test_no_credentials_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no credentials for a cluster.*set KUBECONFIG"):
        Api(ApiSettings(kubeconfig=str(tmp_path / "none")))


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    now_s = 0.0
    bucket = TokenBucket(10.0, 2.0, clock=lambda: now_s)

    assert [0.0, 0.0, 0.1, 0.2] == [pytest.approx(bucket.reserve()) for _ in range(4)]


def test_a_paused_bucket_gives_nothing_until_its_time() -> None:
    now_s = 0.0
    bucket = TokenBucket(10.0, 5.0, clock=lambda: now_s)
    bucket.pause(3.0)

    assert 3.0 == bucket.reserve()
    assert not bucket.try_take()
    now_s = 3.0
    assert bucket.try_take()


def test_a_bucket_that_is_empty_refuses() -> None:
    now_s = 0.0
    bucket = TokenBucket(1.0, 1.0, clock=lambda: now_s)

    assert [True, False] == [bucket.try_take(), bucket.try_take()]
    now_s = 1.0
    assert bucket.try_take()


def test_the_clock_follows_the_server_when_it_is_far_off() -> None:
    clock = ServerClock()
    clock.told("Wed, 25 Nov 2099 12:00:00 GMT")
    ahead_s = clock.now_s() - time.time()
    clock.told("not a date")
    clock.told(None)

    assert ahead_s > 1e9
    assert abs(clock.now_s() - time.time() - ahead_s) < 1.0


def test_the_clock_does_not_follow_the_rounding_of_seconds() -> None:
    clock = ServerClock()
    clock.told(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()))

    assert abs(clock.now_s() - time.time()) < 0.01
