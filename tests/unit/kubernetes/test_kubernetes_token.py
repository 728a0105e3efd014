"""The token of a pod's own account is renewed while the operator runs: requests and kopf carry the new one."""

import datetime as dt
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes.config import incluster_config

from sam3ft_launch.kubernetes.api import Api, ApiProblem, ApiSettings
from sam3ft_launch.kubernetes.kinds import POD
from sam3ft_operator.finetunes import connection

REFRESH_S = 60.0
"""Seconds within which a new file is read; the kubelet writes one when a fifth of the old token's life is left."""


class Pod:
    """What a pod sees of its account: a file with a token; and a server that knows which tokens are good."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Listen, with the token `old` in the file."""
        self.token, self.good, self.seen = folder / "token", {"old"}, list[str]()
        self._now = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - as the client's own
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append(self.headers["authorization"].split()[-1])
                body = b"{}"
                self.send_response(200 if outer.seen[-1] in outer.good else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.token.write_text("old")
        certificate = folder / "ca.crt"
        certificate.write_text("unused, the server speaks no TLS")
        clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda: self._now), timedelta=dt.timedelta)
        monkeypatch.setattr(incluster_config, "datetime", clock)
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(self.token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
        monkeypatch.setattr(incluster_config, "_join_host_port", lambda *_: f"127.0.0.1:{self.server.server_port}")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(self.server.server_port))

    def wait(self, seconds: float) -> None:
        """Let time pass for the client."""
        self._now += dt.timedelta(seconds=seconds)


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    """A pod with an account."""
    found = Pod(tmp_path, monkeypatch)
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def api(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A client inside the cluster."""
    return plain(monkeypatch)


def plain(monkeypatch: pytest.MonkeyPatch) -> Api:
    """Return a client of which the address speaks no TLS."""
    load = incluster_config.InClusterConfigLoader._load_config

    def without_tls(self: object) -> None:
        load(self)
        self.host = self.host.replace("https:", "http:")  # type: ignore[attr-defined]
        self.ssl_ca_cert = None  # type: ignore[attr-defined]

    monkeypatch.setattr(incluster_config.InClusterConfigLoader, "_load_config", without_tls)
    return Api(ApiSettings(), sleep=lambda _: None)


def test_a_new_token_is_carried_within_a_minute_and_the_old_one_no_more(pod: Pod, api: Api) -> None:
    api.get(POD, "lab", "a")
    pod.token.write_text("new")
    pod.good = {"new"}
    pod.wait(REFRESH_S)
    for _ in range(3):
        api.get(POD, "lab", "a")

    assert ["old", "new", "new", "new"] == pod.seen


def test_a_token_that_is_revoked_before_the_file_is_read_again_costs_a_minute_and_nothing_else(
    pod: Pod, api: Api
) -> None:
    pod.good = {"new"}
    with pytest.raises(ApiProblem) as caught:
        api.get(POD, "lab", "a")
    pod.token.write_text("new")
    pod.wait(REFRESH_S)
    api.get(POD, "lab", "a")

    assert 401 == caught.value.code


def test_kopf_is_given_the_newest_token_whenever_it_asks(pod: Pod, api: Api) -> None:
    before = connection(api)
    pod.token.write_text("new")
    pod.wait(REFRESH_S)
    after = connection(api)

    assert (("Bearer", "old"), ("Bearer", "new")) == ((before.scheme, before.token), (after.scheme, after.token))
