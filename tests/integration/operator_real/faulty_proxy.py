"""A proxy that makes an API server of the worst kind: by a seed it refuses, forgets to answer, and garbles watches.

Whether something goes wrong depends on the seed, the address, and how often it was asked, so that a life that went
wrong can be lived again; which of two threads comes first does not matter.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Literal
from urllib.parse import parse_qs, urlencode, urlsplit

from control_plane import ControlPlane
from forwarding_proxy import WRITES, ForwardingProxy

RequestFault = Literal["conflict", "gone", "busy", "internal error", "unavailable", "hang", "no answer"]
WatchFault = Literal["drop", "repeat", "delay", "cut", "error"]

LONGEST_DELAY_S = 3.0
WELL_S = 6.0
"""Between two outages."""
_REMEMBERED = 8
"""Events of a watch that may come again later."""
_STATUS = {
    "conflict": (409, "Conflict"),
    "gone": (410, "Expired"),
    "busy": (429, "TooManyRequests"),
    "internal error": (500, "InternalError"),
    "unavailable": (503, "ServiceUnavailable"),
}
_MAY_HAVE_ACTED = frozenset({"internal error", "unavailable", "hang", "no answer"})
"""Faults after which the server may have done what was asked; the others say that it has not."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and how often.

    Attributes:
        requests: of which one is chosen for a call.
        watches: of which one is chosen for an event.
        share: of the calls and events of which something goes wrong.
        hang_s: how long a call is left without an answer.
        outage_s: for so long every call goes wrong, after every `WELL_S` in which few do; 0 for never.
    """

    requests: tuple[RequestFault, ...] = ()
    watches: tuple[WatchFault, ...] = ()
    share: float = 0.25
    hang_s: float = 2.0
    outage_s: float = 0.0


class FaultyProxy(ForwardingProxy):
    """Forwards with faults.

    Attributes:
        calls: how often each method was called, those of the Lease apart: they depend on the clock alone.
        done: how often each fault was done.
    """

    def __init__(self, plane: ControlPlane, faults: Faults, *, seed: int) -> None:
        """Prepare.

        Args:
            plane: whose API server is asked.
            faults: what goes wrong.
            seed: of what goes wrong when.
        """
        super().__init__(plane)
        self.calls: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._faults, self._seed = faults, seed
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._begun_s = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving, and let go of everybody who waits."""
        self._over.set()
        super().__exit__(kind, error, trace)

    def forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Forward a call, or let it go wrong."""
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        is_watch = query.get("watch") == "true"
        verb = "watch" if is_watch else handler.command
        dice = self._dice(f"{verb} {parts.path}", is_counted="/leases" not in parts.path)
        if "gone" in self._faults.requests and "limit" in query:
            query["limit"] = "1"  # or no list would ever have a second page
        path = f"{parts.path}?{urlencode(query)}" if query else parts.path
        if fault := self._request_fault(dice, is_write=verb in WRITES, can_expire=is_watch or "continue" in query):
            has_acted = not is_watch and fault in _MAY_HAVE_ACTED and dice.random() < 0.5
            self._go_wrong(handler, body, fault, has_acted=has_acted)
            return
        with self.asked(handler, body, path) as answer:
            if is_watch and answer.status == 200 and self._faults.watches:
                self._pass_events_on(handler, answer, dice)
            else:
                self.pass_on(handler, answer)

    def _dice(self, address: str, *, is_counted: bool) -> random.Random:
        with self._lock:
            self._asked[address] += 1
            if is_counted:
                self.calls[address.partition(" ")[0]] += 1
            # A namespace has a random name; without it the same seed means the same faults.
            parts = address.split("/namespaces/", 1)
            place = parts[0] + parts[-1].partition("/")[2]
            return random.Random(f"{self._seed} {place} {self._asked[address]}")

    def _request_fault(self, dice: random.Random, *, is_write: bool, can_expire: bool) -> RequestFault | None:
        if not self._faults.requests or (dice.random() >= self._faults.share and not self._is_out()):
            return None
        fault = dice.choice(self._faults.requests)
        is_possible = {"conflict": is_write, "gone": can_expire}.get(fault, True)
        return fault if is_possible else None

    def _is_out(self) -> bool:
        """Tell whether nothing is well at present."""
        return (time.monotonic() - self._begun_s) % (WELL_S + self._faults.outage_s) >= WELL_S

    def _go_wrong(self, handler: BaseHTTPRequestHandler, body: bytes, fault: RequestFault, *, has_acted: bool) -> None:
        self._note(fault)
        if has_acted:
            with self.asked(handler, body, handler.path) as answer:
                answer.read()
        if fault == "hang":
            self._over.wait(self._faults.hang_s)
        if fault not in _STATUS:
            return
        code, reason = _STATUS[fault]
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
        content = json.dumps({**status, "metadata": {}, "message": "a fault of the test"}).encode()
        handler.send_response(code)
        if fault == "busy":
            handler.send_header("Retry-After", "1")
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(content)

    def _pass_events_on(
        self, handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, dice: random.Random
    ) -> None:
        """Send a watch's events, or what a bad server makes of them."""
        self.begin(handler, answer)
        before: deque[bytes] = deque(maxlen=_REMEMBERED)
        for line in _lines(answer):
            fault = dice.choice(self._faults.watches) if dice.random() < self._faults.share else None
            if fault:
                self._note(fault)
            if fault == "drop":
                continue
            if fault == "delay":
                self._over.wait(dice.uniform(0.5, LONGEST_DELAY_S))
            if fault == "cut":
                self.send_chunk(handler, line[: len(line) // 2])
                if dice.random() < 0.5:
                    self.send_chunk(handler, b"")  # the end of the stream is said, though it is in the middle of a line
                return
            if fault == "error":
                self.send_chunk(handler, _error_event(dice.choice((410, 410, 500))))
                self.send_chunk(handler, b"")
                return
            before.append(line)
            self.send_chunk(handler, line)
            if fault == "repeat":
                self.send_chunk(handler, line + dice.choice(before))
        self.send_chunk(handler, b"")

    def _note(self, fault: str) -> None:
        with self._lock:
            self.done[fault] += 1


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a stream, each as soon as it is complete."""
    while line := answer.readline():
        yield line


def _error_event(code: int) -> bytes:
    reason = {410: "Expired", 500: "InternalError"}[code]
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    event = {"type": "ERROR", "object": {**status, "metadata": {}, "message": "a fault of the test"}}
    return json.dumps(event).encode() + b"\n"
