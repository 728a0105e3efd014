"""The resources: kopf watches them, a slow list of our own proves that it has missed nothing.

kopf is used for what it is good at, a patient watch with bookmarks, and for nothing that writes: one low-level event
handler stores nothing on objects, needs no finalizer, and posts no events.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import kopf

from sam3ft_api.spec import GROUP, PLURAL, VERSION
from sam3ft_launch.kubernetes.api import Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import FINETUNE
from sam3ft_operator.resync import RESYNC_S
from sam3ft_operator.store import ResourceStore, version_of
from sam3ft_operator.watch import PAGE, SERVER_TIMEOUT_S

_log = logging.getLogger(__name__)

_AGAIN_S = 1.0
"""Before kopf is run anew after it has ended; doubled up to `_LAST_AGAIN_S` while it ends within a minute."""
_IDENTITY: Any = "sam3ft-operator"
"""What kopf calls itself among peers; it has none."""
_LAST_AGAIN_S = 15.0
_WELL_AFTER_S = 60.0
_LIST_AGAIN_S = 2.0
"""After a list that failed."""
_HEARTBEAT_S = 1.0
_DEAD_AFTER_S = 60.0


class FineTuneWatch(threading.Thread):
    """kopf, in a thread and an event loop of its own, putting what it sees into the store."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        store: ResourceStore,
        ended: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            api: whose address and credentials kopf uses.
            namespace: in which; empty for all.
            store: takes what is seen.
            ended: called whenever kopf has ended although nobody asked it to; it is begun anew after that.
            clock: monotonic seconds.
        """
        super().__init__(name="watch-finetunes", daemon=True)
        self._ended = ended
        self._api, self._namespace, self._store, self._clock = api, namespace, store, clock
        self._stop_flag = threading.Event()
        self._turned_s = self._heard_s = clock()
        self.restarts = 0

    @property
    def silence_s(self) -> float:
        """Seconds since the last event."""
        return self._clock() - self._heard_s

    @property
    def is_stuck(self) -> bool:
        """The thread has ended, or its loop does not turn."""
        return self.ident is not None and (not self.is_alive() or self._clock() - self._turned_s > _DEAD_AFTER_S)

    def stop(self) -> None:
        """Ask kopf to end."""
        self._stop_flag.set()

    def run(self) -> None:
        """Run kopf until stopped, anew whenever it ends.

        It ends for good where others wait: at a stream that is cut in the middle of a line, at an event that says 500,
        at a list that is refused with 409 or 410, or with 503 for a minute, at a resource that is nested too deeply to
        be read. None of that is mended by a new process.
        """
        wait_s = _AGAIN_S
        while not self._stop_flag.is_set():
            begun_s = self._clock()
            try:
                self._run_kopf()
            except Exception as error:  # noqa: BLE001 - whatever ended it, its next run lists everything
                if not self._stop_flag.is_set():
                    _log.warning("watch of %s: %s: %s; beginning anew", PLURAL, type(error).__name__, error)
            if not self._stop_flag.is_set():
                self._ended()
            if self._clock() - begun_s > _WELL_AFTER_S:
                wait_s = _AGAIN_S
            self._turned_s = self._clock()
            if not self._stop_flag.wait(wait_s):
                self.restarts += 1
            wait_s = min(2 * wait_s, _LAST_AGAIN_S)

    def _run_kopf(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            self._beat(loop)
            kopf.run(
                loop=loop,
                registry=self._registry(),
                settings=kopf_settings(),
                # Otherwise kopf asks for the user's name, and the user of a container rarely has one.
                identity=_IDENTITY,
                standalone=True,
                clusterwide=not self._namespace,
                namespaces=[self._namespace] if self._namespace else [],
                stop_flag=self._stop_flag,
            )
        finally:
            loop.close()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned_s = self._clock()
        loop.call_later(_HEARTBEAT_S, self._beat, loop)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> kopf.ConnectionInfo:
            return connection(self._api)

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def seen(event: kopf.RawEvent, **_: Any) -> None:
            self._take(event["type"], dict(event["object"]))

        return registry

    def _take(self, what: str | None, body: dict[str, Any]) -> None:
        self._heard_s = self._clock()
        if what == "DELETED":
            self._store.remove(str((body.get("metadata") or {}).get("uid") or ""))
        else:
            self._store.put(body)


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: nothing is posted, scanned, peered or kept on objects, and no watch is endless."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.server_timeout = SERVER_TIMEOUT_S
    settings.watching.client_timeout = SERVER_TIMEOUT_S + 30
    settings.watching.connect_timeout = 5.0
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 5.0
    # A worker is a task of kopf for one object; it would linger for 5 s after each event.
    settings.queueing.idle_timeout = 0.5
    return settings


def connection(api: Api) -> kopf.ConnectionInfo:
    """Return the address and the credentials of a client, read anew: a pod's token is renewed every hour."""
    configuration = api.configuration
    header = configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = str(header).rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )


class FineTuneLists(threading.Thread):
    """Lists all resources at the start and every few minutes, and puts right what the watch has missed.

    kopf does not tell of what was deleted while it was not watching; a list does.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        store: ResourceStore,
        resync_s: float = RESYNC_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            api: for its requests.
            namespace: in which; empty for all.
            store: takes what is seen.
            resync_s: between two complete lists, at most.
            clock: monotonic seconds.
        """
        super().__init__(name="list-finetunes", daemon=True)
        self._api, self._namespace, self._store, self._clock = api, namespace, store, clock
        self._resync_s = resync_s
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        self._synced = threading.Event()
        self._listed_s = clock()
        self.corrections = 0

    @property
    def is_synced(self) -> bool:
        """A complete list has been taken since the start."""
        return self._synced.is_set()

    @property
    def silence_s(self) -> float:
        """Seconds since the last complete list."""
        return self._clock() - self._listed_s

    def stop(self) -> None:
        """Begin no other list."""
        self._stopping.set()
        self._hurried.set()

    def hurry(self) -> None:
        """Begin the next list at once: the watch has just missed something, or shows nothing at all."""
        self._hurried.set()

    def run(self) -> None:
        """List until stopped."""
        while not self._stopping.is_set():
            try:
                self.list_once()
            except ApiProblem as problem:
                _log.warning("list of %s: %s", PLURAL, problem)
                self._stopping.wait(_LIST_AGAIN_S)
            except Exception:  # noqa: BLE001 - see below
                # A defect in reading one resource must not end the lists: no other would be seen any more.
                _log.exception("list of %s: an unexpected error; listing again", PLURAL)
                self._stopping.wait(_LAST_AGAIN_S)
            else:
                self._hurried.wait(self._resync_s * random.uniform(0.8, 1.0))  # noqa: S311 - spreads the lists
                self._hurried.clear()

    def list_once(self) -> None:
        """Take one complete list.

        Raises:
            ApiProblem: it could not be had; what was taken so far is true all the same.
        """
        query: dict[str, Any] = {"limit": PAGE}
        uids: set[str] = set()
        while True:
            page = self._api.list(FINETUNE, self._namespace, query)
            for body in page.get("items") or []:
                uids.add(str(body["metadata"]["uid"]))
                # A first list is all news; later ones should be none.
                self.corrections += self._store.put(body) and self.is_synced
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                break
            query["continue"] = token
        self.corrections += len(self._store.keep_only(uids, version=version_of(page)))
        self._listed_s = self._clock()
        self._synced.set()
