"""What `python -m sam3ft_operator.ready` says of an operator."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sam3ft_operator import ready


class Probe(HTTPServer):
    """Answers /readyz with 503 so many times, and then with 200."""

    def __init__(self, refusals: int) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), Answer)
        self.refusals = refusals
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """One answer."""

    def do_GET(self) -> None:
        """Refuse, or agree."""
        probe = self.server
        assert isinstance(probe, Probe)
        probe.paths.append(self.path)
        probe.refusals -= 1
        is_ready = probe.refusals < 0
        self.send_response(200 if is_ready else 503)
        self.end_headers()
        self.wfile.write(b"ok" if is_ready else b"the Lease is not known")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture
def probe(request: pytest.FixtureRequest) -> Iterator[Probe]:
    """A server that refuses as often as the test's parameter says."""
    server = Probe(request.param)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("probe", [2], indirect=True)
def test_it_waits_until_the_operator_is_ready(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ready, "PAUSE_S", 0.0)

    assert 0 == ready.main([f"{probe.url}/"])
    assert ["/readyz"] * 3 == probe.paths
    assert "ready: ok" == capsys.readouterr().out.strip()


@pytest.mark.parametrize("probe", [1000], indirect=True)
def test_it_gives_up_with_the_operator_s_words(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == ready.main([probe.url, "--within-s", "0"])
    assert "not ready: 503 the Lease is not known" == capsys.readouterr().err.strip()


def test_nobody_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == ready.main(["http://127.0.0.1:1", "--within-s", "0"])
    assert "Connection refused" in capsys.readouterr().err


def test_something_else_than_an_address_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ready.main(["file:///etc/passwd"])
    assert "is no address; write http://HOST:PORT" in capsys.readouterr().err
