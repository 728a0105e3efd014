"""Complete lists every few minutes, beside the watches: what a watch has kept back is seen then.

The watches go on meanwhile, and the lists are taken slowly: thousands of pods come in many pages, each of which keeps
the interpreter and the API server busy, and no run should wait for what is most likely known already.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from sam3ft_launch.kubernetes.api import Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import Kind
from sam3ft_operator.store import ChildStore
from sam3ft_operator.watch import list_children

_log = logging.getLogger(__name__)

RESYNC_S = 300.0
"""Between two complete lists, at most."""
DEAD_AFTER_S = 240.0
"""Longest time that the thread can honestly take for one page and the pause after it."""
_REST = 4.0
"""Pause after a page, in times that the page took: the lists keep a fifth of one core busy."""
_LONGEST_REST_S = 10.0
_AGAIN_S = 15.0
"""After a list that failed."""
_POLL_S = 60.0


class Resync(threading.Thread):
    """Lists every kind of children in turn, and puts right what the watches have missed."""

    def __init__(
        self,
        api: Api,
        kinds: Sequence[Kind],
        *,
        namespace: str,
        store: ChildStore,
        resync_s: float = RESYNC_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` begins, with a pause: the watches have their own first lists.

        Args:
            api: for its requests.
            kinds: what is listed.
            namespace: in which; empty for all.
            store: takes what is seen.
            resync_s: between two complete lists of a kind, at most.
            clock: monotonic seconds.
        """
        super().__init__(name="resync", daemon=True)
        self.corrections = 0
        self.lists: dict[Kind, int] = dict.fromkeys(kinds, 0)
        self._api, self._namespace, self._store, self._clock = api, namespace, store, clock
        self._resync_s = resync_s
        self._due_s = {kind: self._next_s(clock()) for kind in kinds}
        self._stopping = threading.Event()
        self._turned_s = self._page_begun_s = clock()

    @property
    def is_stuck(self) -> bool:
        """The thread has ended, or does not come back from what it does."""
        return self.ident is not None and (not self.is_alive() or self._clock() - self._turned_s > DEAD_AFTER_S)

    def stop(self) -> None:
        """Begin no other list."""
        self._stopping.set()

    def run(self) -> None:
        """List what is due until stopped."""
        while not self._stopping.is_set():
            self._turned_s = self._clock()
            kind = min(self._due_s, key=self._due_s.__getitem__)
            pause_s = self._due_s[kind] - self._clock()
            if pause_s > 0:
                self._stopping.wait(min(pause_s, _POLL_S))
            else:
                self.list_once(kind)

    def list_once(self, kind: Kind) -> None:
        """Take one complete list; one that fails is told in the log and due again after a moment."""
        begun_s = self._page_begun_s = self._clock()
        try:
            with self._store.listing(kind.name):
                found = list_children(self._api, kind, self._namespace, read=self._rest, known=self._store.known)
                self.corrections += self._store.replace_all(kind.name, found.children, version=found.version)
        except ApiProblem as problem:
            _log.warning("list of %s: %s", kind.plural, problem)
            self._due_s[kind] = self._clock() + min(self._resync_s, _AGAIN_S)
        except Exception:  # noqa: BLE001 - see below
            # A defect in reading one object must not end the lists of all others.
            _log.exception("list of %s: an unexpected error; listing again", kind.plural)
            self._due_s[kind] = self._clock() + _AGAIN_S
        else:
            self.lists[kind] += 1
            self._due_s[kind] = self._next_s(begun_s)

    def _next_s(self, after_s: float) -> float:
        return after_s + self._resync_s * random.uniform(0.8, 1.0)  # noqa: S311 - spreads the lists

    def _rest(self) -> None:
        """Pause between two pages."""
        self._turned_s = self._clock()
        self._stopping.wait(min(_LONGEST_REST_S, _REST * (self._turned_s - self._page_begun_s)))
        self._page_begun_s = self._clock()
