"""List and watch of one kind of children: in pages, by label, with bookmarks, each in a thread of its own.

kopf would list all objects of a kind at once and watch them without a selector. This watch keeps slim values alone, and
drops an object's JSON as soon as it is read. What a watch keeps back (a cache on the way, a server with a defect),
`resync` shows.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam3ft_api import names
from sam3ft_launch.kubernetes.api import JSON, METADATA, METADATA_LIST, Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import BY_METADATA, Kind
from sam3ft_operator.store import Child, ChildStore, Place, version_of
from sam3ft_operator.views import child_of, place_of

_log = logging.getLogger(__name__)

SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"
PAGE = 100
"""Objects in one page of a list. A page is in memory for a moment, as JSON and as objects, and what other threads keep
meanwhile lies among them, so that the process stays larger by a part of it: 16 MiB with 500 pods, 4 MiB with 100."""
SERVER_TIMEOUT_S = 280
"""After this the server ends a watch, and another begins from where it was."""
SILENCE_S = 100.0
"""The server sends a bookmark about every minute; a stream without a byte for longer than this is dead."""
DEAD_AFTER_S = 240.0
"""Longest time that a thread can honestly take for one turn: silence, connection, back-off, and a slow list."""
_SHORT_S = 1.0
"""A stream that the server ends sooner was none: the next one waits as after a failure."""
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.2, 15.0
_GONE = 410


@dataclass(frozen=True, slots=True)
class Listed:
    """One complete list.

    Attributes:
        children: all that a run owns, by place.
        version: of the list; a watch that begins there misses nothing.
    """

    children: dict[Place, Child]
    version: int


def list_children(
    api: Api,
    kind: Kind,
    namespace: str,
    *,
    read: Callable[[], None],
    known: Callable[[str, Place, int], Child | None] = lambda _kind, _place, _version: None,
) -> Listed:
    """Take one complete list of a kind, in pages.

    Args:
        api: for its requests.
        kind: what is listed.
        namespace: in which; empty for all.
        read: called after each page but the last.
        known: returns what is kept of an object at that very version, which is then not read again.

    Raises:
        ApiProblem: a page could not be had; 410 when the pages took longer than the server keeps a version.
    """
    accept = METADATA_LIST if kind in BY_METADATA else JSON
    query: dict[str, Any] = {"labelSelector": SELECTOR, "limit": PAGE}
    children: dict[Place, Child] = {}

    def take_page() -> tuple[str | None, int]:
        # A function of its own, so that no page is kept beside the next one.
        page = api.list(kind, namespace, query, accept=accept)
        for body in page.get("items") or []:
            place = place_of(body)
            child = known(kind.name, place, version_of(body))
            if child is not None:
                children[place] = child
            elif (found := child_of(kind, body)) is not None:
                children[place] = found[1]
        return (page.get("metadata") or {}).get("continue"), version_of(page)

    while True:
        token, version = take_page()
        if not token:
            return Listed(children, version)
        query["continue"] = token
        read()


class Watch(threading.Thread):
    """Keeps the store's values of one kind true."""

    def __init__(
        self,
        api: Api,
        kind: Kind,
        *,
        namespace: str,
        store: ChildStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            api: for its requests.
            kind: what is watched.
            namespace: in which; empty for all.
            store: takes what is seen.
            clock: monotonic seconds.
        """
        super().__init__(name=f"watch-{kind.plural}", daemon=True)
        self.kind = kind
        self.relists = 0
        self._api, self._namespace, self._store, self._clock = api, namespace, store, clock
        self._stopping = threading.Event()
        self._synced = threading.Event()
        self._version = ""
        self._backoff_s = 0.0
        self._heard_s = self._turned_s = clock()

    @property
    def is_synced(self) -> bool:
        """A complete list has been taken since the start."""
        return self._synced.is_set()

    @property
    def silence_s(self) -> float:
        """Seconds since the last list, event or bookmark."""
        return self._clock() - self._heard_s

    @property
    def is_stuck(self) -> bool:
        """The thread has ended, or does not come back from what it does; an API server that is away is no reason."""
        return self.ident is not None and (not self.is_alive() or self._clock() - self._turned_s > DEAD_AFTER_S)

    def stop(self) -> None:
        """Begin no other turn; the thread is a daemon, so nobody waits for its open stream."""
        self._stopping.set()

    def run(self) -> None:
        """Take turns until stopped."""
        while not self._stopping.is_set():
            self._turned_s = self._clock()
            try:
                self._turn()
            except ApiProblem as problem:
                self._after(problem)
            except Exception:  # noqa: BLE001 - see below
                # A defect in reading one object must not end the watch: everything is read again.
                _log.exception("watch of %s: an unexpected error; listing again", self.kind.plural)
                self._version = ""
                self._wait()

    def _turn(self) -> None:
        """List where nothing is known, then watch until the server ends the stream."""
        if not self._version:
            self._list()
        begun_s = self._clock()
        longest_s = SERVER_TIMEOUT_S * random.uniform(0.8, 1.0)  # noqa: S311 - spreads reconnections
        query: dict[str, Any] = {
            "labelSelector": SELECTOR,
            "resourceVersion": self._version,
            "timeoutSeconds": int(longest_s),
        }
        accept = METADATA if self.kind in BY_METADATA else JSON
        for event in self._api.stream(self.kind, self._namespace, query, silence_s=SILENCE_S, accept=accept):
            self._turned_s = self._heard_s = self._clock()
            self._take(event)
            self._backoff_s = 0.0
            if self._stopping.is_set():
                return
        if self._clock() - begun_s < _SHORT_S:
            self._wait()

    def _list(self) -> None:
        found = list_children(self._api, self.kind, self._namespace, read=self._read)
        self.relists += 1
        self._store.replace_all(self.kind.name, found.children, version=found.version)
        self._version = str(found.version or "")
        self._heard_s = self._clock()
        self._synced.set()

    def _read(self) -> None:
        self._turned_s = self._clock()

    def _take(self, event: dict[str, Any]) -> None:
        what, body = event.get("type"), event.get("object") or {}
        if what == "ERROR":
            raise ApiProblem(int(body.get("code") or 0), str(body.get("reason") or ""), str(body.get("message") or ""))
        version = str((body.get("metadata") or {}).get("resourceVersion") or "")
        if what != "BOOKMARK" and (found := child_of(self.kind, body)) is not None:
            place, child = found
            if what == "DELETED":
                self._store.remove(self.kind.name, place, version=child.version)
            else:
                self._store.put(self.kind.name, place, child)
        self._version = version or self._version

    def _after(self, problem: ApiProblem) -> None:
        if problem.code == _GONE:
            _log.info("watch of %s: its version is too old; listing again", self.kind.plural)
            self._version = ""
        else:
            _log.warning("watch of %s: %s", self.kind.plural, problem)
        self._wait(problem.retry_after_s)

    def _wait(self, at_least_s: float = 0.0) -> None:
        """Wait for a time that doubles and is spread, so that many watches do not come back at once."""
        self._backoff_s = min(_LAST_BACKOFF_S, 2 * self._backoff_s or _FIRST_BACKOFF_S)
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._stopping.wait(max(min(at_least_s, 30.0), self._backoff_s * spread))
