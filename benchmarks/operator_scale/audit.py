"""Figures from the audit log: who asked what when, to the microsecond, as the API server has seen it."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.operator_scale.site import OPERATOR_USER

from sam3ft_api import names
from sam3ft_api.spec import PLURAL

PLAYER = "kwok"
"""Begins the user agent of the program that plays the pods."""
_CHECK = f"{names.preflight_name('')}-"
"""Part of the name of every check's pod."""
COUNTED_ERRORS = (403, 409, 429)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request.

    Attributes:
        user: whose.
        agent: of which program.
        verb: of the API.
        resource: plural name, with the subresource behind a slash.
        name: of the object.
        code: HTTP status.
        received_s: when the server took it, in seconds since the epoch.
        answered_s: when it had answered.
        phase: that a write of a run's status set; empty for everything else.
    """

    user: str
    agent: str
    verb: str
    resource: str
    name: str
    code: int
    received_s: float
    answered_s: float
    phase: str


def answers(log: Path) -> Iterator[Answer]:
    """Yield the answers of an audit log, line by line: it may be larger than memory."""
    with log.open() as lines:
        for line in lines:
            if line.endswith("}\n"):
                entry = json.loads(line)
                if entry["stage"] == "ResponseComplete":
                    yield _answer(entry)


def _answer(entry: Mapping[str, Any]) -> Answer:
    about = entry.get("objectRef") or {}
    parts = [part for part in (about.get("resource", ""), about.get("subresource", "")) if part]
    return Answer(
        user=entry["user"]["username"],
        agent=entry.get("userAgent", ""),
        verb=entry["verb"],
        resource="/".join(parts),
        name=about.get("name", ""),
        code=(entry.get("responseStatus") or {}).get("code", 0),
        received_s=_seconds(entry["requestReceivedTimestamp"]),
        answered_s=_seconds(entry["stageTimestamp"]),
        phase=_phase(entry.get("requestObject")),
    )


def _phase(written: object) -> str:
    status = written.get("status") if isinstance(written, dict) else None
    return str(status.get("phase") or "") if isinstance(status, dict) else ""


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass(slots=True)
class Timeline:
    """What is kept of a log: when the things happened between which time is measured.

    Attributes:
        created_s: by resource, when its creation was answered.
        jobs: by Job, when the operator sent its creation and when that was answered.
        check_ends_s: by preflight Job, when the writes of its pod's status were answered; the last one is its end.
        pod_ends_s: by pod that was told to end, when its end was written.
        failed_s: by resource, when the phase Failed was first written.
        made: how often the operator created an object, by collection and name.
    """

    created_s: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, tuple[float, float]] = field(default_factory=dict)
    check_ends_s: dict[str, list[float]] = field(default_factory=dict)
    pod_ends_s: dict[str, float] = field(default_factory=dict)
    failed_s: dict[str, float] = field(default_factory=dict)
    made: Counter[tuple[str, str]] = field(default_factory=Counter)

    def take(self, answer: Answer, ended_pods: Mapping[str, str]) -> None:
        """Keep what matters of one answer, in the order of the log."""
        if not 200 <= answer.code < 300:
            return
        match answer.verb, answer.resource:
            case "create", _ if answer.user == OPERATOR_USER and answer.name:
                self.made[answer.resource, answer.name] += 1
                if answer.resource == "jobs":
                    self.jobs.setdefault(answer.name, (answer.received_s, answer.answered_s))
            case "create", resource if resource == PLURAL:
                self.created_s[answer.name] = answer.answered_s
            case "patch", "pods/status" if _CHECK in answer.name and answer.agent.startswith(PLAYER):
                self.check_ends_s.setdefault(answer.name.rpartition("-")[0], []).append(answer.answered_s)
            case "patch", "pods/status" if answer.name in ended_pods and answer.agent.startswith(PLAYER):
                # The first write said that it runs; the last one is its end.
                self.pod_ends_s[answer.name] = answer.answered_s
            case "patch", resource if resource == f"{PLURAL}/status" and answer.phase == "Failed":
                self.failed_s.setdefault(answer.name, answer.answered_s)
            case _:
                pass

    def to_check(self, runs: Iterable[str]) -> list[float]:
        """Return the seconds from each resource's creation to that of its preflight Job."""
        found = ((self.created_s.get(run), self.jobs.get(names.preflight_name(run))) for run in runs)
        return [job[1] - created_s for created_s, job in found if created_s is not None and job is not None]

    def to_workers(self, runs: Iterable[str]) -> list[float]:
        """Return the seconds from the end of each check's pod to its worker Job.

        The operator acts on the pod's last word, which comes before the Job's controller has counted the pod.
        """
        found = []
        for run in runs:
            workers = self.jobs.get(names.worker_job_name(run, 1))
            ends_s = self.check_ends_s.get(names.preflight_name(run), ())
            if workers is not None and (before_s := [at_s for at_s in ends_s if at_s <= workers[0]]):
                found.append(workers[1] - max(before_s))
        return found

    def to_failed(self, ended_pods: Mapping[str, str]) -> list[float]:
        """Return the seconds from the end of each failed worker to the status that says Failed."""
        return [
            self.failed_s[run] - self.pod_ends_s[pod]
            for pod, run in ended_pods.items()
            if run in self.failed_s and pod in self.pod_ends_s
        ]

    def duplicates(self) -> list[str]:
        """Return the objects that the operator has created more than once; runs are never made again here."""
        return sorted(f"{resource} {name}" for (resource, name), count in self.made.items() if count > 1)


@dataclass(slots=True)
class Calls:
    """Requests within a span of time.

    Attributes:
        begun_s: begin of the span, in seconds since the epoch.
        ended_s: its end.
        operator: the operator's, by verb and collection.
        errors: the operator's, by code from 400 on.
        everybody: number of all requests.
        refused: requests of anybody that the server's own limits have refused.
        answers_s: how long the server took for each of the operator's writes.
    """

    begun_s: float
    ended_s: float
    operator: Counter[str] = field(default_factory=Counter)
    errors: Counter[int] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTED_ERRORS, 0)))
    everybody: int = 0
    refused: int = 0
    answers_s: list[float] = field(default_factory=list)

    def take(self, answer: Answer) -> None:
        """Count one answer, if it was asked for within the span."""
        if not self.begun_s <= answer.received_s < self.ended_s:
            return
        self.everybody += 1
        self.refused += answer.code == 429
        if answer.user == OPERATOR_USER:
            self.operator[f"{answer.verb} {answer.resource}"] += 1
            if answer.verb in {"create", "patch"}:
                self.answers_s.append(answer.answered_s - answer.received_s)
            if answer.code >= 400:
                self.errors[answer.code] += 1


def read_log(log: Path, ended_pods: Mapping[str, str], *, begun_s: float, ended_s: float) -> tuple[Timeline, Calls]:
    """Read a log once.

    Args:
        log: of the API server.
        ended_pods: pods that were told to end, with the names of their runs.
        begun_s: begin of the span in which requests are counted, in seconds since the epoch.
        ended_s: its end.
    """
    timeline, calls = Timeline(), Calls(begun_s, ended_s)
    for answer in answers(log):
        timeline.take(answer, ended_pods)
        calls.take(answer)
    return timeline, calls


def spread(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return number, median, 99th percentile and maximum of some times; percentiles are values that occurred."""
    if not seconds:
        return {"n": 0, "p50": None, "p99": None, "max": None}
    found = sorted(seconds)

    def at(share: float) -> float:
        return round(found[math.ceil(share * len(found)) - 1], 4)

    return {"n": len(found), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)}
