"""The proxy does what its rules say, to the requests they say, and nothing else."""

import http.client
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from sam3ft_faults.proxy import FaultProxy
from sam3ft_faults.rules import Rule, slow_down

BODY = bytes(range(256)) * 400
"""102,400 bytes, no two neighbours alike."""


class Storage(BaseHTTPRequestHandler):
    """Keeps what is put; answers BODY below /body, in chunks below /chunked."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes] = {}  # noqa: RUF012 - the handler is made anew for each connection
    heard: list[tuple[str, str, str]] = []  # noqa: RUF012 - likewise

    def do_GET(self) -> None:
        self.note()
        if self.path.startswith("/chunked"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(BODY), 1000):
                piece = BODY[start : start + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.answer(self.kept.get(self.path, BODY))

    def do_HEAD(self) -> None:
        self.note()
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()

    def do_PUT(self) -> None:
        self.note()
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")

    def note(self) -> None:
        self.heard.append((self.command, self.path, self.headers["Host"]))

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections are cut on purpose here."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server(("127.0.0.1", 0), Storage)
    Thread(target=started.serve_forever, daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


@pytest.fixture(scope="module")
def running(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{server.server_port}", seed=3) as proxy:
        yield proxy


@pytest.fixture
def proxy(running: FaultProxy) -> FaultProxy:
    running.accept()
    running.clear()
    Storage.kept.clear()
    Storage.heard.clear()
    return running


def ask(
    proxy: FaultProxy, method: str = "GET", path: str = "/body", body: bytes | None = None, timeout_s: float = 10.0
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=timeout_s)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(proxy: FaultProxy, request: bytes, timeout_s: float = 10.0) -> tuple[bytes, str]:
    """Send bytes and read to the end; returns what came, and whether it ended by fin, rst or not at all."""
    host, _, port = proxy.endpoint.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as client:
        client.sendall(request)
        came = b""
        try:
            while piece := client.recv(65536):
                came += piece
        except ConnectionResetError:
            return came, "rst"
        except TimeoutError:
            return came, "silence"
        return came, "fin"


GET = b"GET /body HTTP/1.1\r\nHost: bucket.example:99\r\n\r\n"


def payload_of(came: bytes) -> bytes:
    return came.partition(b"\r\n\r\n")[2]


def test_without_rules_everything_passes_unchanged(proxy: FaultProxy):
    stored = ask(proxy, "PUT", "/kept", BODY)

    assert (200, b"") == stored
    assert (200, BODY) == ask(proxy, "GET", "/kept")
    assert (200, b"") == ask(proxy, "HEAD", "/kept")
    assert (200, BODY) == ask(proxy, "GET", "/chunked")


def test_the_host_header_reaches_the_server_as_the_client_wrote_it(proxy: FaultProxy):
    raw(proxy, GET, timeout_s=0.5)

    assert [("GET", "/body", "bucket.example:99")] == Storage.heard


def test_one_connection_serves_many_requests_and_a_continue(proxy: FaultProxy):
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=10)
    before = proxy.totals().get("connections", 0)
    for number in range(3):
        connection.request("PUT", f"/kept{number}", BODY, {"Expect": "100-continue"})
        assert b"" == connection.getresponse().read()
    connection.close()

    assert {f"/kept{number}": BODY for number in range(3)} == Storage.kept
    assert 1 == proxy.totals()["connections"] - before


def test_a_rule_strikes_its_methods_and_paths_alone(proxy: FaultProxy):
    proxy.rules(slow_down(methods=("PUT",), path=r"^/ckpt/"))

    struck = ask(proxy, "PUT", "/ckpt/a", b"x")

    assert 503 == struck[0]
    assert b"<Code>SlowDown</Code>" in struck[1]
    assert {} == Storage.kept
    assert 200 == ask(proxy, "PUT", "/log/a", b"x")[0]
    assert 200 == ask(proxy, "GET", "/ckpt/a")[0]
    assert [1] == proxy.struck()


def test_a_share_is_struck_and_the_same_seed_strikes_the_same(server: Server):
    runs = []
    for _ in range(2):
        with FaultProxy(f"http://127.0.0.1:{server.server_port}", seed=11) as seeded:
            seeded.rules(slow_down(share=0.5))
            runs.append([ask(seeded, "HEAD", "/")[0] for _ in range(40)])

    assert runs[0] == runs[1]
    assert 8 < runs[0].count(503) < 32


def test_some_are_let_pass_and_only_so_many_are_struck(proxy: FaultProxy):
    proxy.rules(slow_down(skip=2, times=3))

    statuses = [ask(proxy, "HEAD", "/")[0] for _ in range(8)]

    assert [200, 200, 503, 503, 503, 200, 200, 200] == statuses


def test_a_rule_begins_and_ends_by_the_clock(proxy: FaultProxy):
    proxy.rules(slow_down(after_s=0.4, for_s=0.4))

    before = ask(proxy, "HEAD", "/")[0]
    time.sleep(0.5)
    within = ask(proxy, "HEAD", "/")[0]
    time.sleep(0.5)

    assert (200, 503, 200) == (before, within, ask(proxy, "HEAD", "/")[0])


def test_an_answer_is_reset_after_the_byte(proxy: FaultProxy):
    proxy.rules(Rule(fault="reset", at_byte=5000))

    came, end = raw(proxy, GET)

    assert (BODY[:5000], "rst") == (payload_of(came), end)


def test_a_half_closed_answer_ends_short_of_its_length(proxy: FaultProxy):
    proxy.rules(Rule(fault="half-close", at_byte=5000))

    came, end = raw(proxy, GET)

    assert (BODY[:5000], "fin") == (payload_of(came), end)
    with pytest.raises(http.client.IncompleteRead):
        ask(proxy)


def test_a_stalled_answer_stops_and_stays_open(proxy: FaultProxy):
    proxy.rules(Rule(fault="stall", at_byte=5000))

    came, end = raw(proxy, GET, timeout_s=0.5)

    assert (BODY[:5000], "silence") == (payload_of(came), end)


def test_a_short_answer_is_whole_by_its_own_words(proxy: FaultProxy):
    proxy.rules(Rule(fault="short", at_byte=5000))

    assert (200, BODY[:5000]) == ask(proxy)


def test_a_corrupt_answer_differs_in_one_bit(proxy: FaultProxy):
    proxy.rules(Rule(fault="corrupt", at_byte=70_000))

    _, body = ask(proxy)

    assert [70_000] == [place for place, pair in enumerate(zip(BODY, body, strict=True)) if pair[0] != pair[1]]
    assert 1 == BODY[70_000] ^ body[70_000]


@pytest.mark.parametrize("fault", ["reset", "half-close", "corrupt"])
def test_a_byte_beyond_the_end_is_the_last_one(proxy: FaultProxy, fault: Any):
    proxy.rules(Rule(fault=fault, at_byte=10**9))

    came, _ = raw(proxy, GET, timeout_s=1.0)

    assert BODY[:-1] == payload_of(came)[: len(BODY) - 1]
    assert BODY != payload_of(came)


@pytest.mark.parametrize("fault", ["reset", "half-close"])
def test_an_answer_in_chunks_is_cut_too(proxy: FaultProxy, fault: Any):
    proxy.rules(Rule(fault=fault, at_byte=5000))

    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        ask(proxy, "GET", "/chunked")


def test_a_lost_response_was_carried_out(proxy: FaultProxy):
    proxy.rules(Rule(fault="lose-response", methods=("PUT",)))

    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        ask(proxy, "PUT", "/kept", BODY)

    assert {"/kept": BODY} == Storage.kept


def test_a_request_that_is_cut_is_not_carried_out(proxy: FaultProxy):
    proxy.rules(Rule(fault="reset-request", at_byte=5000))

    with pytest.raises((ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)):
        ask(proxy, "PUT", "/kept", BODY)

    time.sleep(0.2)
    assert [("PUT", "/kept")] == [heard[:2] for heard in Storage.heard]
    assert len(Storage.kept.get("/kept", b"")) <= 5000


def test_a_blackhole_takes_a_request_and_tells_nobody(proxy: FaultProxy):
    proxy.rules(Rule(fault="blackhole"))

    with pytest.raises(TimeoutError):
        ask(proxy, timeout_s=0.5)

    assert [] == Storage.heard


def test_a_delay_and_a_rate_take_their_time(proxy: FaultProxy):
    proxy.rules(Rule(delay_s=0.3, bytes_per_s=200_000))
    started = time.monotonic()

    answer = ask(proxy)

    assert (200, BODY) == answer
    assert 0.75 < time.monotonic() - started < 5


def test_a_refusing_proxy_comes_back_on_its_port(proxy: FaultProxy):
    proxy.refuse()

    with pytest.raises(ConnectionRefusedError):
        ask(proxy)
    proxy.accept()

    assert 200 == ask(proxy)[0]


def test_what_was_done_is_counted(proxy: FaultProxy):
    before = proxy.totals()
    proxy.rules(slow_down(methods=("HEAD",)))
    ask(proxy, "HEAD", "/a")
    ask(proxy, "GET", "/b")
    ask(proxy, "PUT", "/c", b"12345")

    totals = {name: count - before.get(name, 0) for name, count in proxy.totals().items()}

    assert {"requests": 3, "fault:status": 1, "passed": 2, "request_bytes": 5, "answer_bytes": len(BODY)} == {
        name: count for name, count in totals.items() if count and name != "connections"
    }
    assert [("HEAD", "/a", True), ("GET", "/b", False), ("PUT", "/c", False)] == [
        (request["method"], request["target"], request["struck"]) for request in proxy.requests()[-3:]
    ]


@pytest.mark.parametrize(
    "fields", [{"fault": "explode"}, {"share": 1.5}, {"skip": -1}, {"bytes_per_s": 0.0}, {"path": "("}]
)
def test_a_rule_that_means_nothing_is_refused(fields: dict[str, Any]):
    with pytest.raises(Exception, match=r"unknown|within|negative|nothing pass|unterminated"):
        Rule(**fields)


def test_the_process_ends_with_the_context(server: Server):
    with FaultProxy(f"http://127.0.0.1:{server.server_port}") as short:
        ask(short, "HEAD", "/")
        process = short._process
        assert process is not None

    assert 0 == process.returncode
    with pytest.raises(ConnectionRefusedError):
        ask(short)
