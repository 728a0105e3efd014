"""What the coordinators say, read by one event loop in a thread of its own; no worker ever waits for one.

A coordinator's pod may have been replaced by anything: its answer is bounded in time and size, never followed
elsewhere, never unpacked, and validated field by field. A thousand that do not answer delay nobody.
"""

import asyncio
import ipaddress
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from pydantic import ValidationError

from sam3ft_api import limits
from sam3ft_api.messages import Verdict
from sam3ft_api.worker import Progress
from sam3ft_operator.observed import GroupView
from sam3ft_operator.views import clean

_log = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024
"""Bytes of an answer; 1,024 nodes with long names need about 200 KiB."""
WITHIN_S = 2.0
"""Seconds for a whole answer."""
EVERY_S = 5.0
"""Seconds between two looks at one coordinator; the answer is kept for as long."""
LAST_EVERY_S = 60.0
"""Longest time between two looks at one that does not answer."""
STALE_AFTER_S = 60.0
"""An older answer is none."""
AT_ONCE = 128
"""Coordinators that are asked at the same time."""
_STATES = frozenset({"waiting", "running", "stopping", "complete", "failed"})


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask.

    Attributes:
        address: of the coordinator's pod.
        port: of its HTTP.
        attempt: that it should serve; an answer about another one is not believed.
    """

    address: str
    port: int
    attempt: int


def group_view(body: bytes, *, attempt: int, now_s: float) -> GroupView | None:
    """Return an answer of `/progress` as a value; None for what is none, or is about another attempt. Never raises.

    Args:
        body: as received.
        attempt: that was asked about.
        now_s: seconds since the epoch.
    """
    try:
        content = json.loads(body)
        if not isinstance(content, dict) or content.get("attempt") != attempt or content.get("state") not in _STATES:
            return None
        nodes, members = _items(content.get("nodes")), _items(content.get("members"))
        return GroupView(
            state=content["state"],
            attempt=attempt,
            ready_nodes=min(len(members), limits.MAX_NODES),
            known_nodes=min(len(nodes), limits.MAX_NODES),
            rounds=_count(content.get("round"), limits.MAX_ROUND) or 0,
            commit_step=_count(content.get("commit_step"), limits.MAX_STEP),
            progress=_progress(content.get("progress")),
            verdict=_verdict(content.get("verdict")),
            read_s=now_s,
        )
    except (ValueError, TypeError, RecursionError):
        return None


def _progress(content: object) -> Progress | None:
    if not isinstance(content, dict):
        return None
    try:
        progress = Progress.model_validate(content)
    except ValidationError:
        return None
    best = clean(progress.best_metric, max_chars=limits.MAX_METRIC_NAME_CHARS) or None
    return progress.model_copy(
        update={"message": clean(progress.message), "state": clean(progress.state, max_chars=64), "best_metric": best}
    )


def _verdict(content: object) -> Verdict | None:
    if not isinstance(content, dict):
        return None
    try:
        verdict = Verdict.model_validate_json(json.dumps(content))
    except ValidationError:
        return None
    return verdict.model_copy(update={"message": clean(verdict.message, max_chars=limits.MAX_MESSAGE_CHARS)})


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object, largest: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return min(max(value, 0), largest)


@dataclass(slots=True)
class _Followed:
    target: Target
    task: "asyncio.Task[None] | None" = None
    view: GroupView | None = None
    failures: int = 0


class ProgressReader(threading.Thread):
    """Asks the coordinators of all runs in turn and tells when an answer is news."""

    def __init__(self, *, changed: Callable[[str], None], clock: Callable[[], float], every_s: float = EVERY_S) -> None:
        """Prepare; `start` begins.

        Args:
            changed: told the uid of a run of which an answer differs from the one before.
            clock: seconds since the epoch.
            every_s: between two looks at one coordinator.
        """
        super().__init__(name="progress", daemon=True)
        self._changed, self._clock, self._every_s = changed, clock, every_s
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._followed: dict[str, _Followed] = {}
        self.asked = self.unanswered = 0

    def follow(self, uid: str, target: Target | None) -> GroupView | None:
        """Ask this coordinator from now on, or none, and return what it said last; never waits.

        None is returned where nothing is known that is newer than `STALE_AFTER_S`.
        """
        with self._lock:
            if self._loop.is_closed():
                return None
            known = self._followed.get(uid)
            if known is not None and known.target != target:
                self._followed.pop(uid)
                self._loop.call_soon_threadsafe(_cancel, known)
                known = None
            if known is None and target is not None:
                known = self._followed[uid] = _Followed(target)
                self._loop.call_soon_threadsafe(self._begin, uid, known)
            view = known.view if known is not None else None
        return view if view is not None and self._clock() - view.read_s < STALE_AFTER_S else None

    def run(self) -> None:
        """Serve the loop until `stop`."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        with self._lock:
            self._loop.close()

    def stop(self) -> None:
        """End the loop; answers that are under way are dropped."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _begin(self, uid: str, known: _Followed) -> None:
        known.task = self._loop.create_task(self._follow(uid, known))

    async def _follow(self, uid: str, known: _Followed) -> None:
        gate = self._gate()
        while True:
            async with gate:
                body = await fetch(known.target)
            view = group_view(body, attempt=known.target.attempt, now_s=self._clock()) if body is not None else None
            self.asked += 1
            if view is None:
                known.failures += 1
                self.unanswered += 1
            else:
                known.failures = 0
                is_news = known.view is None or replace(known.view, read_s=view.read_s) != view
                known.view = view
                if is_news:
                    self._changed(uid)
            await asyncio.sleep(min(LAST_EVERY_S, self._every_s * 2 ** min(known.failures, 6)))

    def _gate(self) -> asyncio.Semaphore:
        if not hasattr(self, "_semaphore"):
            self._semaphore = asyncio.Semaphore(AT_ONCE)
        return self._semaphore


def _cancel(known: _Followed) -> None:
    if known.task is not None:
        known.task.cancel()


async def fetch(target: Target) -> bytes | None:
    """Return the body of a coordinator's `/progress`; None for anything but a small 200 in time."""
    if not _is_pod_address(target.address):
        return None
    host = f"[{target.address}]" if ":" in target.address else target.address
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                max_line_size=4096,
                max_field_size=4096,
            ) as session,
            session.get(f"http://{host}:{target.port}/progress", allow_redirects=False) as answer,
        ):
            if answer.status != 200 or answer.headers.get("Content-Encoding"):
                return None
            return await _bounded(answer)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


async def _bounded(answer: Any) -> bytes | None:
    body = b""
    async for chunk in answer.content.iter_chunked(65536):
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return body


def _is_pod_address(address: str) -> bool:
    """Tell whether an address can be a pod's; the API takes it from a kubelet, and nothing may lead elsewhere."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local)
