"""A stand-in for a run's coordinator: an HTTP server on a loopback address of its own, which says what a test wants."""

import itertools
import json
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from operator_site import MANAGER, Site

from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.kubernetes.settings import PROGRESS_PORT

_NUMBERS = itertools.count(1)
Answer = Callable[[BaseHTTPRequestHandler], None]


def progress(*, attempt: int = 1, nodes: int = 2, state: str = "running", **changes: Any) -> dict[str, Any]:
    """Return what a coordinator says of a run that goes well."""
    members = [f"n{number}" for number in range(nodes)]
    return {
        "state": state,
        "attempt": attempt,
        "round": 1,
        "members": members,
        "nodes": [{"name": name, "slot": slot, "state": "running"} for slot, name in enumerate(members)],
        "commit_step": 200,
        "progress": {
            "state": "training",
            "step": 1200,
            "total_steps": 4000,
            "epoch": 3.0,
            "eta_s": 4800.0,
            "images_per_s": 20.0,
            "loss": 0.4321,
            "best_metric": "bbox_AP",
            "best_value": 0.61,
            "best_step": 1000,
            "checkpoint_step": 200,
            "world_size": nodes,
        },
        "failures": [],
        "verdict": None,
    } | changes


def says(content: object) -> Answer:
    """Return an answer with this JSON."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, json.dumps(content).encode(), "application/json")

    return answer


def send(handler: BaseHTTPRequestHandler, body: bytes, kind: str) -> None:
    """Answer with a body of this content type."""
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class FakeCoordinator:
    """Serves `answer`, which a test may change at any time, at the port of every coordinator."""

    def __init__(self, answer: Answer) -> None:
        """Listen, on an address that no other test of this machine uses."""
        self.answer, self.asked = answer, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        process = os.getpid()
        self.address = f"127.{64 + process // 65536 % 64}.{process // 256 % 256}.{next(_NUMBERS) % 250 + 1}"
        self._server = ThreadingHTTPServer((self.address, PROGRESS_PORT), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up on purpose
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def stands_for(self, site: Site, pod: dict[str, Any]) -> None:
        """Give the coordinator's pod this server's address."""
        status = {"podIP": self.address, "podIPs": [{"ip": self.address}]}
        name = pod["metadata"]["name"]
        site.api.patch(kinds.POD, site.namespace, name, {"status": status}, manager=MANAGER, subresource="status")
