"""Why the pods of a Job could not be made (quota, admission): the newest event about it, asked for only when in doubt.

A Job's status does not say it, and events are too many to be watched.
"""

import threading
from typing import Any

from sam3ft_launch.kubernetes.api import Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import EVENT
from sam3ft_operator.observed import JobView
from sam3ft_operator.views import clean

PATIENCE_S = 5.0
"""A Job that lacks pods is not asked about before this age."""
KEPT_S = 30.0
"""An answer is believed for so long."""
_JOBS_KEPT = 4096
_REASON = "FailedCreate"


class Troubles:
    """Asks about Jobs that lack pods; safe for many threads."""

    def __init__(self, api: Api) -> None:
        """Begin with no answer."""
        self._api = api
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, str]] = {}

    def of(self, namespace: str, job: JobView, *, now_s: float) -> str:
        """Return the words of the newest failure to make a pod; empty without one, or when nobody could say."""
        if not lacks_pods(job, now_s=now_s):
            return ""
        with self._lock:
            asked_s, words = self._known.get(job.uid, (0.0, ""))
        if now_s - asked_s < KEPT_S:
            return words
        words = self._ask(namespace, job)
        with self._lock:
            while len(self._known) >= _JOBS_KEPT:
                del self._known[next(iter(self._known))]
            self._known[job.uid] = (now_s, words)
        return words

    def _ask(self, namespace: str, job: JobView) -> str:
        query = {"fieldSelector": f"involvedObject.uid={job.uid},reason={_REASON}", "limit": 50}
        try:
            return newest_message(self._api.list(EVENT, namespace, query))
        except ApiProblem:
            return ""  # an event is a help for people; without it the Job still lacks its pods


def lacks_pods(job: JobView, *, now_s: float) -> bool:
    """Tell whether a Job has fewer pods than it should have made by now."""
    is_at_work = not (job.has_ended or job.is_suspended or job.is_deleted)
    missing = job.active + job.succeeded < job.parallelism
    return is_at_work and missing and now_s - job.created_s >= PATIENCE_S


def newest_message(page: dict[str, Any]) -> str:
    """Return the message of the newest event of a list; empty without one."""
    found = [event for event in page.get("items") or [] if isinstance(event, dict)]
    newest = max(found, key=_when, default=None)
    return clean(newest.get("message")) if newest is not None else ""


def _when(event: dict[str, Any]) -> str:
    created = (event.get("metadata") or {}).get("creationTimestamp")
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or created or "")
