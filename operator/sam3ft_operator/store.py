"""What the watches have shown: slim values in memory, indexed by run. Safe for many threads.

Versions are compared as numbers, which the API promises since 1.35 and has always kept: an object that this process
has just written is put in at once, and an older one that arrives later does not replace it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sam3ft_operator.observed import JobView, PodView

View = JobView | PodView | None
"""None for a kind of which only the existence matters."""
Changed = Callable[[str], None]
"""Told the uid of the run of which something has changed."""


@dataclass(frozen=True, slots=True)
class Child:
    """One child as it is kept.

    Attributes:
        run: uid of the resource that owns it.
        version: of the object, as a number.
        view: what `decide` may look at.
    """

    run: str
    version: int
    view: View


Place = tuple[str, str]
"""Namespace and name."""


class ChildStore:
    """Children of all runs, by kind."""

    def __init__(self, kinds: Iterable[str], *, changed: Changed) -> None:
        """Begin empty."""
        self._lock = threading.Lock()
        self._by_place: dict[str, dict[Place, Child]] = {kind: {} for kind in kinds}
        self._by_run: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self._seen: dict[str, int] = dict.fromkeys(self._by_place, 0)
        self._listed: dict[str, int] = dict.fromkeys(self._by_place, 0)
        self._removed: dict[str, dict[Place, int]] = {}
        self._changed = changed

    @contextmanager
    def listing(self, kind: str) -> Iterator[None]:
        """Remember what a watch removes while a list of the same kind is taken, so that it brings nothing back."""
        with self._lock:
            self._removed[kind] = {}
        try:
            yield
        finally:
            with self._lock:
                del self._removed[kind]

    def known(self, kind: str, place: Place, version: int) -> Child | None:
        """Return what is kept of an object at that very version."""
        with self._lock:
            child = self._by_place[kind].get(place)
            return child if child is not None and child.version == version else None

    def replace_all(self, kind: str, found: Mapping[Place, Child], *, version: int) -> int:
        """Take a complete list in place of everything that is kept of a kind; returns for how many runs it was news.

        A list that is older than the last one is passed over. Beside a watch, `listing` has to be around the list.

        Args:
            kind: of the objects.
            found: all of them.
            version: of the list.
        """
        runs: set[str] = set()
        with self._lock:
            if version < self._listed[kind]:
                return 0
            self._listed[kind] = version
            removed = self._removed.get(kind, {})
            before = self._by_place[kind]
            for place, child in list(before.items()):
                if place not in found and child.version <= version:
                    runs.add(child.run)
                    self._drop(kind, place)
            for place, child in found.items():
                if child.version > removed.get(place, 0):
                    runs |= self._put(kind, place, child)
            self._seen[kind] = max(self._seen[kind], version)
        for run in runs:
            self._changed(run)
        return len(runs)

    def put(self, kind: str, place: Place, child: Child) -> None:
        """Take one object as a watch shows it."""
        with self._lock:
            # A watch tells in order. What is older than it has told, of an object that is not there, has been deleted.
            is_gone = place not in self._by_place[kind] and child.version < self._seen[kind]
            runs = set() if is_gone else self._put(kind, place, child)
            self._seen[kind] = max(self._seen[kind], child.version)
        for run in runs:
            self._changed(run)

    def put_own(self, kind: str, place: Place, child: Child) -> None:
        """Take an object that this process has just written, unless the watch has passed it: it may be gone again."""
        with self._lock:
            if child.version > self._seen[kind]:
                self._put(kind, place, child)

    def remove(self, kind: str, place: Place, *, version: int) -> None:
        """Forget one object, as a watch shows it."""
        run = None
        with self._lock:
            child = self._by_place[kind].get(place)
            if child is not None and child.version <= version:
                run = child.run
                self._drop(kind, place)
            if kind in self._removed:
                self._removed[kind][place] = version
            self._seen[kind] = max(self._seen[kind], version)
        if run is not None:
            self._changed(run)

    def of_run(self, namespace: str, run: str) -> list[tuple[str, str, View]]:
        """Return kind, name and view of every child of a run that lives in the run's own namespace, sorted."""
        with self._lock:
            places = self._by_run.get((namespace, run), set())
            return sorted(
                ((kind, name, self._by_place[kind][namespace, name].view) for kind, name in places),
                key=lambda found: found[:2],
            )

    def counts(self) -> dict[str, int]:
        """Return how many objects of each kind are kept."""
        with self._lock:
            return {kind: len(found) for kind, found in self._by_place.items()}

    def _put(self, kind: str, place: Place, child: Child) -> set[str]:
        """Keep the newer of two; return the runs for which it makes a difference."""
        before = self._by_place[kind].get(place)
        if before is not None and before.version > child.version:
            return set()
        if before is not None and before.run != child.run:
            self._drop(kind, place)
        self._by_place[kind][place] = child
        self._by_run.setdefault((place[0], child.run), set()).add((kind, place[1]))
        if before is None:
            return {child.run}
        return {before.run, child.run} if (before.run, before.view) != (child.run, child.view) else set()

    def _drop(self, kind: str, place: Place) -> None:
        child = self._by_place[kind].pop(place)
        index = (place[0], child.run)
        names = self._by_run.get(index, set())
        names.discard((kind, place[1]))
        if not names:
            self._by_run.pop(index, None)


class ResourceStore:
    """The resources themselves, as plain data without managed fields, by uid."""

    def __init__(self, *, changed: Changed) -> None:
        """Begin empty."""
        self._lock = threading.Lock()
        self._by_uid: dict[str, dict[str, Any]] = {}
        self._changed = changed

    def put(self, resource: dict[str, Any]) -> bool:
        """Keep a resource unless a newer version is known; True when it is news, of which the run's queue is told."""
        slim = slim_resource(resource)
        uid = slim["metadata"]["uid"]
        if not uid:
            return False
        with self._lock:
            before = self._by_uid.get(uid)
            if before is not None and version_of(before) >= version_of(slim):
                return False
            self._by_uid[uid] = slim
        self._changed(uid)
        return True

    def remove(self, uid: str) -> None:
        """Forget a resource that is gone."""
        with self._lock:
            self._by_uid.pop(uid, None)
        self._changed(uid)

    def keep_only(self, uids: set[str], *, version: int) -> list[str]:
        """Forget what a complete list of that version does not have, and return the uids that went."""
        with self._lock:
            gone = [
                uid for uid, resource in self._by_uid.items() if uid not in uids and version_of(resource) <= version
            ]
        for uid in gone:
            self.remove(uid)
        return gone

    def get(self, uid: str) -> dict[str, Any] | None:
        """Return a resource; whoever gets it does not change it."""
        with self._lock:
            return self._by_uid.get(uid)

    def all(self) -> list[dict[str, Any]]:
        """Return all resources; whoever gets them does not change them."""
        with self._lock:
            return list(self._by_uid.values())


_KEPT = (
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
)


def slim_resource(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a resource that are kept: identity, spec and status."""
    metadata = resource.get("metadata") or {}
    kept = {name: metadata[name] for name in _KEPT if metadata.get(name) is not None}
    kept.setdefault("uid", "")
    return {"metadata": kept, "spec": resource.get("spec") or {}, "status": resource.get("status") or {}}


def version_of(body: Mapping[str, Any]) -> int:
    """Return an object's resourceVersion as a number; 0 for what is none."""
    text = str((body.get("metadata") or {}).get("resourceVersion") or "")
    return int(text) if text.isdecimal() and len(text) < 32 else 0
