"""What coordinators say: bounded and validated, whoever answers."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ft_operator import progress
from sam3ft_operator.progress import ProgressReader, Target, group_view

GOOD: dict[str, Any] = {
    "state": "running",
    "attempt": 2,
    "round": 3,
    "members": ["n0", "n1"],
    "nodes": [{"name": "n0"}, {"name": "n1"}, {"name": "n2"}],
    "commit_step": 200,
    "progress": {"state": "training", "step": 240, "total_steps": 4000, "loss": 0.5, "message": "a\x1b[31mb"},
    "failures": [],
    "verdict": {"v": 1, "type": "verdict", "code": 14, "message": "belongs\u202e to another"},
}


def view(content: object, *, attempt: int = 2) -> Any:
    """Return what is made of an answer."""
    return group_view(json.dumps(content).encode(), attempt=attempt, now_s=50.0)


def test_an_answer_is_what_it_is() -> None:
    found = view(GOOD)

    assert ("running", 2, 2, 3, 3, 200) == (
        found.state,
        found.attempt,
        found.ready_nodes,
        found.known_nodes,
        found.rounds,
        found.commit_step,
    )
    assert (240, "a [31mb") == (found.progress.step, found.progress.message)
    assert (14, "belongs  to another") == (found.verdict.code, found.verdict.message)


def test_an_answer_about_another_attempt_is_none() -> None:
    assert view(GOOD, attempt=3) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"state": []}', b'{"attempt": 2}'])
def test_what_is_no_answer_is_none(body: bytes) -> None:
    assert group_view(body, attempt=2, now_s=0.0) is None


def test_a_part_that_cannot_be_read_is_left_out() -> None:
    found = view(
        GOOD | {"progress": {"state": 1}, "verdict": {"code": 5}, "round": "x", "members": 7, "commit_step": True}
    )

    assert (None, None, 0, 0, None) == (
        found.progress,
        found.verdict,
        found.rounds,
        found.ready_nodes,
        found.commit_step,
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON, max_size=4))
def test_no_answer_is_an_error(changes: dict[str, Any]) -> None:
    view(GOOD | changes)


class Coordinator:
    """An HTTP server that answers as a test wants."""

    def __init__(self, serve: Callable[[BaseHTTPRequestHandler], None]) -> None:
        """Listen."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                serve(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up on purpose
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.target = Target("127.0.0.1", self._server.server_port, 2)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def sends(body: bytes, code: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer."""

    def serve(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return serve


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte now and then, so that no single read takes long."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Send for ever."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"[" * 65536)


HOSTILE = {
    "drips": drips,
    "endless": endless,
    "packed": sends(gzip.compress(json.dumps(GOOD).encode()), Content_Encoding="gzip"),
    "said to be packed": sends(json.dumps(GOOD).encode(), Content_Encoding="deflate"),
    "too long": sends(json.dumps(GOOD | {"padding": "x" * progress.MAX_BYTES}).encode()),
    "error": sends(b"no", 500),
    "short": sends(b"{", Content_Length="100"),
    "headers": sends(b"{}", X="y" * 100_000),
}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ProgressReader, list[str]]]:
    """A reader that looks often, and the list of what it tells."""
    monkeypatch.setattr(progress, "WITHIN_S", 0.5)
    told: list[str] = []
    found = ProgressReader(changed=told.append, clock=time.time, every_s=0.05)
    found.start()
    yield found, told
    found.stop()
    found.join(5)


def until(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    give_up_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def test_news_is_told_once_and_kept(reader: tuple[ProgressReader, list[str]]) -> None:
    coordinator = Coordinator(sends(json.dumps(GOOD).encode()))
    assert reader[0].follow("run", coordinator.target) is None
    until(lambda: reader[0].asked >= 3)
    coordinator.close()

    assert ["run"] == reader[1]
    found = reader[0].follow("run", coordinator.target)
    assert found is not None
    assert 240 == (found.progress and found.progress.step)


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_hostile_coordinator_says_nothing_and_delays_nobody(
    reader: tuple[ProgressReader, list[str]], kind: str
) -> None:
    hostile, honest = Coordinator(HOSTILE[kind]), Coordinator(sends(json.dumps(GOOD).encode()))
    reader[0].follow("hostile", hostile.target)
    until(lambda: reader[0].unanswered)
    begun_s = time.monotonic()
    reader[0].follow("honest", honest.target)
    until(lambda: reader[1])
    took_s = time.monotonic() - begun_s
    nothing = reader[0].follow("hostile", hostile.target)
    hostile.close()
    honest.close()

    assert ["honest"] == reader[1]
    assert nothing is None
    assert took_s < 1.0


def test_nobody_is_sent_elsewhere(reader: tuple[ProgressReader, list[str]]) -> None:
    elsewhere = Coordinator(sends(json.dumps(GOOD).encode()))
    port = elsewhere.target.port
    sender = Coordinator(sends(b"", 302, Location=f"http://127.0.0.1:{port}/progress"))
    reader[0].follow("run", sender.target)
    until(lambda: reader[0].asked)
    sender.close()
    elsewhere.close()

    assert [] == reader[1]
    assert 1 <= reader[0].unanswered


def test_nobody_is_asked_any_more_once_a_run_has_no_coordinator(reader: tuple[ProgressReader, list[str]]) -> None:
    coordinator = Coordinator(sends(json.dumps(GOOD).encode()))
    reader[0].follow("run", coordinator.target)
    until(lambda: reader[0].asked)
    reader[0].follow("run", None)
    time.sleep(0.2)
    before = reader[0].asked
    time.sleep(0.3)
    coordinator.close()

    assert before == reader[0].asked


def test_an_old_answer_is_none(monkeypatch: pytest.MonkeyPatch, reader: tuple[ProgressReader, list[str]]) -> None:
    coordinator = Coordinator(sends(json.dumps(GOOD).encode()))
    reader[0].follow("run", coordinator.target)
    until(lambda: reader[1])
    coordinator.close()
    monkeypatch.setattr(progress, "STALE_AFTER_S", 0.0)

    assert reader[0].follow("run", coordinator.target) is None


@pytest.mark.parametrize(
    "address", ["", "::", "169.254.169.254", "fe80::1", "224.0.0.1", "metadata.internal", "1.2.3.4@evil"]
)
def test_no_address_that_cannot_be_a_pods_is_asked(address: str) -> None:
    assert not progress._is_pod_address(address)


@pytest.mark.parametrize("address", ["10.244.0.9", "fd00::7"])
def test_a_pods_address_is_asked(address: str) -> None:
    assert progress._is_pod_address(address)
