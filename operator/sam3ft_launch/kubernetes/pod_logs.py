"""What the pods of a run have said, as long as they exist; over attempts, when it is followed."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sam3ft_api import names
from sam3ft_launch.kubernetes.api import CONNECT_S, ApiProblem
from sam3ft_launch.kubernetes.objects.trainer_pod import CONTAINER
from sam3ft_launch.kubernetes.runs import ClusterRun, ClusterRuns, told

POLL_S = 2.0
"""Seconds between looks for the next pod."""
SILENCE_S = 3600.0
"""A stream without a line for so long is opened again; a trainer that evaluates may say nothing for long."""
_INDEX = "batch.kubernetes.io/job-completion-index"
GIVE_UP_S = 120.0
"""For so long a stream that broke is opened again; what the cluster says then is told."""
OPENED_S = CONNECT_S + 2.0
"""A stream that breaks later than this was open: nobody waits longer for a connection."""
_GONE, _REFUSED, _TOO_MANY, _NOT_WELL = 404, 400, 429, 500
_NOT_YET = re.compile(r"waiting to start|ContainerCreating|PodInitializing|not available")
"""How the API server says that a container has no log yet; with the same code it refuses other things."""
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.?(\d{0,9})(Z|[+-]\d\d:\d\d) ")
"""What the node writes before each line: in its own time zone, to the nanosecond."""


@dataclass(frozen=True, slots=True)
class LogPod:
    """A pod that may have a log.

    Attributes:
        name: of the pod.
        uid: its identity.
        role: preflight or worker.
        attempt: of the run; 0 for the check.
        index: of the worker within its attempt.
        created: RFC 3339, for the order.
        has_ended: it says nothing more.
    """

    name: str
    uid: str
    role: str
    attempt: int
    index: int
    created: str
    has_ended: bool


def log_pods(pods: list[dict[str, Any]], *, index: int) -> list[LogPod]:
    """Return the pods whose log is the run's, oldest first: the check, then one worker of each attempt.

    Args:
        pods: of a run, as the server sends them.
        index: of the worker within its attempt.
    """
    found = [_log_pod(pod) for pod in pods]
    wanted = [pod for pod in found if pod.role == names.ROLE_PREFLIGHT or pod.index == index]
    kept = [pod for pod in wanted if pod.role in (names.ROLE_PREFLIGHT, names.ROLE_WORKER)]
    return sorted(kept, key=lambda pod: (pod.attempt, pod.created, pod.name))


def _log_pod(pod: dict[str, Any]) -> LogPod:
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    place = (metadata.get("annotations") or {}).get(_INDEX) or labels.get(_INDEX) or "0"
    number = labels.get(names.LABEL_ATTEMPT, "0")
    return LogPod(
        name=metadata["name"],
        uid=metadata["uid"],
        role=labels.get(names.LABEL_ROLE, ""),
        attempt=int(number) if number.isdecimal() else 0,
        index=int(place) if place.isdecimal() else 0,
        created=metadata.get("creationTimestamp", ""),
        has_ended=(pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"),
    )


class PodLogs:
    """Reads the logs of one run's pods."""

    def __init__(
        self, runs: ClusterRuns, run: ClusterRun, *, index: int = 0, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Ask nothing yet.

        Args:
            runs: of the namespace.
            run: whose pods are read.
            index: of the worker within its attempt.
            tell: gets a sentence when a stream is lost, and tried again.
        """
        self._runs, self._run, self._index, self._tell = runs, run, index, tell

    def newest(self, *, lines: int) -> list[str]:
        """Return the last lines of the newest pod that has said something; empty when there is no such pod.

        Raises:
            TransientError: the API server, or the pod's node, did not answer.
            InvalidConfig: the user may not read logs.
        """
        for pod in reversed(log_pods(self._runs.pods(self._run), index=self._index)):
            if found := [line for _, line in self._stamped(pod, {"tailLines": lines})]:
                return found
        return []

    def follow(self, *, lines: int, is_over: Callable[[], bool]) -> Iterator[str]:
        """Yield the last lines of the newest pod, then every new line of it and of the pods that come after it.

        Args:
            lines: how many to begin with.
            is_over: whether the run has ended; asked when no pod is left to be read.

        Raises:
            TransientError, InvalidConfig: as `newest`.
        """
        read: set[str] = set()
        query: dict[str, Any] = {"tailLines": lines}
        while True:
            over = is_over()
            waiting = [pod for pod in log_pods(self._runs.pods(self._run), index=self._index) if pod.uid not in read]
            if query and len(waiting) > 1:  # only the newest one is begun in the middle
                read.update(pod.uid for pod in waiting[:-1])
                waiting = waiting[-1:]
            for pod in waiting:
                heard = False
                for line in self._whole(pod, query):
                    heard = True
                    yield line
                if heard or pod.has_ended:
                    read.add(pod.uid)
                    query = {}
            if over:
                return
            time.sleep(POLL_S)

    def _whole(self, pod: LogPod, query: dict[str, Any]) -> Iterator[str]:
        """Yield the lines of a pod until it ends; a stream that breaks is opened again behind the last line.

        Raises:
            TransientError: none could be opened for `GIVE_UP_S` seconds.
        """
        asked, last, lost_s = {"follow": "true", **query}, "", None
        while True:
            opened_s, seen = time.monotonic(), last
            try:
                for moment, line in self._stamped(pod, asked):
                    lost_s = None
                    if moment and moment <= seen:
                        continue  # a stream that was opened again begins at the whole second
                    seen = ""  # from here on all is new, whatever the node's clock says
                    last = max(last, moment)
                    yield line
            except ApiProblem as problem:
                broken_s = time.monotonic()
                if lost_s is None or broken_s - opened_s > OPENED_S:  # until now it stood, with or without lines
                    lost_s = broken_s
                    self._tell(f"the log of {pod.name} broke off ({problem.message}); opening it again")
                if broken_s - lost_s > GIVE_UP_S:
                    raise told(problem, f"reading the log of {pod.name}, for {broken_s - lost_s:.0f} s") from None
                time.sleep(POLL_S)
            else:
                # Also a node's agent or an API server that is started anew ends a stream as if all had been said.
                if not self._goes_on(pod):
                    return
                time.sleep(POLL_S)
            since = {"sinceTime": f"{last[:19]}Z"} if last else query
            asked = {"follow": "true", **since}

    def _goes_on(self, pod: LogPod) -> bool:
        """Tell whether a pod whose log has ended is still there and at work."""
        found = [it for it in self._runs.pods(self._run) if it["metadata"].get("uid") == pod.uid]
        return any((it.get("status") or {}).get("phase") == "Running" for it in found)

    def _stamped(self, pod: LogPod, query: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield each line with its time, which sorts as text; the time is empty where the server gives none."""
        try:
            stamped = {"timestamps": "true", "container": CONTAINER, **query}
            for line in self._runs.api.log(self._runs.namespace, pod.name, stamped, silence_s=SILENCE_S):
                found = _STAMP.match(line)
                yield (_moment(found), line[found.end() :]) if found else ("", line)
        except ApiProblem as problem:
            if problem.code == _GONE or (problem.code == _REFUSED and _NOT_YET.search(problem.message)):
                return
            if "follow" in query and (problem.code in (0, _TOO_MANY) or problem.code >= _NOT_WELL):
                raise
            raise told(problem, f"reading the log of {pod.name}") from None


def _moment(stamp: re.Match[str]) -> str:
    """Return a stamp in UTC, so that it sorts as text."""
    second = datetime.fromisoformat(stamp[1] + ("+00:00" if stamp[3] == "Z" else stamp[3])).astimezone(UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{stamp[2]:0<9}"
