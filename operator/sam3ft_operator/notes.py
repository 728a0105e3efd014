"""Events about a resource, for `kubectl describe`: each told once, at a bounded rate, never with control characters.

An event is a help for people: one that cannot be written is counted and dropped, and never holds up a run.
"""

import hashlib
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sam3ft_api import names
from sam3ft_api.spec import API_VERSION, KIND
from sam3ft_launch.kubernetes.api import Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import EVENT
from sam3ft_launch.kubernetes.pace import TokenBucket
from sam3ft_operator.decision import Note
from sam3ft_operator.observed import Resource
from sam3ft_operator.views import clean

_log = logging.getLogger(__name__)

COMPONENT = "sam3ft-operator"
MAX_MESSAGE_CHARS = 1000
"""Characters of an event's message; the API allows 1,024 bytes of the newer kind."""
_BURST, _RATE_PER_S = 25.0, 1 / 30
"""Events of one run at once, and after that: what Kubernetes' own components allow themselves, and a little more."""
_AGAIN_AFTER_S = 600.0
"""The same sentence is told again after this, as a higher count of the same event."""
_RUNS_KEPT = 4096
_TOLD_KEPT = 64
_NO_REASON = re.compile(r"[^A-Za-z0-9]")


@dataclass(slots=True)
class _Told:
    """How often one sentence has been told."""

    at_s: float
    count: int = 1


class Notes:
    """Writes events; safe for many threads."""

    def __init__(self, api: Api, *, clock: Callable[[], float]) -> None:
        """Begin with nothing told.

        Args:
            api: for its requests.
            clock: seconds since the epoch.
        """
        self._api, self._clock = api, clock
        self._runs: OrderedDict[str, tuple[TokenBucket, OrderedDict[str, _Told]]] = OrderedDict()
        self._lock = threading.Lock()
        self.dropped = 0

    def tell(self, resource: Resource, note: Note) -> None:
        """Write one event, unless it was told a short while ago or the run has told too many; never raises."""
        name = event_name(resource, note)
        count = self._admit(resource.uid, name)
        if count is None:
            return
        try:
            self._write(resource, note, name, count)
        except ApiProblem as problem:
            self.dropped += 1
            _log.warning("event %s of %s/%s: %s", note.reason, resource.namespace, resource.name, problem)

    def _write(self, resource: Resource, note: Note, name: str, count: int) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            body = event_body(resource, note, name=name, now=now)
            self._api.create(EVENT, resource.namespace, body, manager=names.FIELD_MANAGER_OPERATOR)
        except ApiProblem as problem:
            if problem.reason != "AlreadyExists":
                raise
            change = {"count": max(2, count), "lastTimestamp": now}
            self._api.patch(EVENT, resource.namespace, name, change, manager=names.FIELD_MANAGER_OPERATOR)

    def _admit(self, uid: str, name: str) -> int | None:
        """Return how often this was told, this time included; None when it is not to be told now."""
        now_s = self._clock()
        with self._lock:
            if uid not in self._runs:
                self._runs[uid] = (TokenBucket(_RATE_PER_S, _BURST, clock=self._clock), OrderedDict())
            bucket, told = self._runs[uid]
            self._runs.move_to_end(uid)
            if len(self._runs) > _RUNS_KEPT:
                self._runs.popitem(last=False)
            before = told.get(name)
            if before is not None and now_s - before.at_s < _AGAIN_AFTER_S:
                return None
            if not bucket.try_take():
                self.dropped += 1
                return None
            told[name] = _Told(now_s, before.count + 1 if before else 1)
            told.move_to_end(name)
            if len(told) > _TOLD_KEPT:
                told.popitem(last=False)
            return told[name].count


def event_name(resource: Resource, note: Note) -> str:
    """Return the event's name: the same for the same sentence about the same resource, so that it exists once."""
    text = "\n".join((resource.uid, note.type, note.reason, _message(note)))
    return f"{resource.name[:200]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def event_body(resource: Resource, note: Note, *, name: str, now: str) -> dict[str, Any]:
    """Return the event as the API takes it.

    Args:
        resource: that it is about.
        note: what is told.
        name: of the event.
        now: time in the API's form.
    """
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": name,
            "namespace": resource.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGER},
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": resource.namespace,
            "name": resource.name,
            "uid": resource.uid,
        },
        "type": note.type,
        "reason": _NO_REASON.sub("", note.reason)[:128] or "Note",
        "message": _message(note),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _message(note: Note) -> str:
    return clean(note.message, max_chars=MAX_MESSAGE_CHARS)
