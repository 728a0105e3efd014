"""Why the pods of a Job are not made: the newest event about it, or what Kueue says; asked for only when in doubt.

A Job's status does not say it, events are too many to be watched, and a cluster may have no Kueue.
"""

import threading
from typing import Any

from sam3ft_launch.kubernetes.api import Api, ApiProblem
from sam3ft_launch.kubernetes.event_time import last_seen
from sam3ft_launch.kubernetes.kinds import EVENT, WORKLOAD
from sam3ft_operator.effects import of_job
from sam3ft_operator.observed import JobView
from sam3ft_operator.views import clean

PATIENCE_S = 5.0
"""A Job that lacks pods is not asked about before this age."""
KEPT_S = 30.0
"""An answer is believed for so long, and for a tenth of the time that the Job has waited in a queue."""
_LONGEST_KEPT_S = 600.0
_JOBS_KEPT = 4096
_REASON = "FailedCreate"


class Troubles:
    """Asks about Jobs that lack pods; safe for many threads."""

    def __init__(self, api: Api) -> None:
        """Begin with no answer."""
        self._api = api
        self._lock = threading.Lock()
        self._known: dict[tuple[str, bool], tuple[float, str]] = {}

    def of(self, namespace: str, job: JobView, *, now_s: float) -> str:
        """Return the words of the newest failure to make a pod, or of Kueue; empty when there are none to be had."""
        is_queued = waits_in_queue(job, now_s=now_s)
        if not (is_queued or lacks_pods(job, now_s=now_s)):
            return ""
        kept_s = min(_LONGEST_KEPT_S, max(KEPT_S, (now_s - job.created_s) / 10)) if is_queued else KEPT_S
        with self._lock:
            asked_s, words = self._known.get((job.uid, is_queued), (0.0, ""))
        if now_s - asked_s < kept_s:
            return words
        words = self._ask(namespace, job)
        with self._lock:
            while len(self._known) >= _JOBS_KEPT:
                del self._known[next(iter(self._known))]
            self._known[job.uid, is_queued] = (now_s, words)
        return words

    def _ask(self, namespace: str, job: JobView) -> str:
        query = {"fieldSelector": f"involvedObject.uid={job.uid},reason={_REASON}", "limit": 50}
        try:
            if job.is_suspended:
                return queue_message(self._api.list(WORKLOAD, namespace, of_job(job.uid)))
            return newest_message(self._api.list(EVENT, namespace, query))
        except ApiProblem as problem:
            if job.is_suspended and problem.code == 404:
                return "Kueue is not there, so nobody will admit it"
            return ""  # an event is a help for people; without it the Job still lacks its pods


def lacks_pods(job: JobView, *, now_s: float) -> bool:
    """Tell whether a Job has fewer pods than it should have made by now."""
    is_at_work = not (job.has_ended or job.is_suspended or job.is_deleted)
    missing = job.active + job.succeeded < job.parallelism
    return is_at_work and missing and now_s - job.created_s >= PATIENCE_S


def waits_in_queue(job: JobView, *, now_s: float) -> bool:
    """Tell whether Kueue has left a Job in its queue for long enough to be asked why."""
    is_waiting = bool(job.queue) and job.is_suspended and not (job.has_ended or job.is_deleted)
    return is_waiting and now_s - job.created_s >= PATIENCE_S


def queue_message(page: dict[str, Any]) -> str:
    """Return why Kueue has not reserved quota for the newest of a Job's Workloads; empty when it does not say."""
    found = [workload for workload in page.get("items") or [] if isinstance(workload, dict)]
    newest = max(found, key=lambda workload: str((workload.get("metadata") or {}).get("creationTimestamp")), default={})
    told = {str(it.get("type")): it for it in (newest.get("status") or {}).get("conditions") or []}
    reserved = told.get("QuotaReserved") or {}
    return clean(reserved.get("message")) if reserved.get("status") == "False" else ""


def newest_message(page: dict[str, Any]) -> str:
    """Return the message of the newest event of a list; empty without one."""
    found = [event for event in page.get("items") or [] if isinstance(event, dict)]
    newest = max(found, key=last_seen, default=None)
    return clean(newest.get("message")) if newest is not None else ""
