"""What a user is told by an API server that refuses, and which pods' logs are a run's."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sam3ft_api import names
from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_launch.backend import TransientError
from sam3ft_launch.kubernetes import pod_logs
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import POD, Kind
from sam3ft_launch.kubernetes.pod_logs import PodLogs, log_pods
from sam3ft_launch.kubernetes.runs import ClusterRun, ClusterRuns, to_run, told


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [
        (ApiProblem(401, "Unauthorized", "Unauthorized"), InvalidConfig, "log in again"),
        (ApiProblem(403, "Forbidden", "user may not"), InvalidConfig, "user may not; ask the cluster's administrator"),
        (
            ApiProblem(404, "NotFound", "the server could not find the requested resource"),
            InvalidConfig,
            "does not know SAM3FineTune; install sam3ft there",
        ),
        (ApiProblem(422, "Invalid", "spec.workers: too many"), InvalidConfig, "doing: spec.workers: too many"),
        (ApiProblem(409, "Conflict", "conflict with kubectl"), InvalidConfig, "conflict with kubectl"),
        (ApiProblem(429, "TooManyRequests", "slow"), TransientError, "try again"),
        (ApiProblem(503, "", "away"), TransientError, "try again"),
        (ApiProblem(0, "NoAnswer", "refused"), TransientError, "the API server is not well"),
    ],
)
def test_a_refusal_is_told_with_what_to_do(problem: ApiProblem, kind: type[Sam3ftError], words: str) -> None:
    error = told(problem, "doing")

    assert kind is type(error)
    assert words in str(error)


def pod(
    name: str, *, role: str = "worker", attempt: int = 1, index: int = 0, phase: str = "Running", at: str = "0"
) -> dict[str, Any]:
    """Return a pod of a run."""
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "creationTimestamp": f"2026-11-25T12:00:0{at}Z",
            "labels": {names.LABEL_ROLE: role, names.LABEL_ATTEMPT: str(attempt)},
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "status": {"phase": phase},
    }


def test_logs_are_of_the_check_and_of_one_worker_of_each_attempt() -> None:
    pods = [
        pod("b-2-0", attempt=2),
        pod("b-coordinator", role="coordinator"),
        pod("b-1-1", index=1),
        pod("b-1-0b", at="5"),
        pod("b-1-0a", at="1"),
        pod("b-check", role="preflight", attempt=0),
    ]

    assert ["b-check", "b-1-0a", "b-1-0b", "b-2-0"] == [found.name for found in log_pods(pods, index=0)]
    assert ["b-check", "b-1-1"] == [found.name for found in log_pods(pods, index=1)]


class Server:
    """Answers for pods and their logs."""

    def __init__(self) -> None:
        """Begin without pods."""
        self.pods: list[dict[str, Any]] = []
        self.lines: dict[str, list[str | ApiProblem]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def list(self, kind: Kind, _namespace: str, _query: dict[str, Any]) -> dict[str, Any]:
        """Return the pods."""
        assert kind is POD
        return {"items": self.pods}

    def log(self, _namespace: str, pod: str, query: dict[str, Any], **_: float) -> Iterator[str]:
        """Yield what is left of a log; a problem among the lines breaks the stream."""
        self.asked.append((pod, query))
        rest = self.lines.get(pod, [])
        while rest:
            if isinstance(line := rest.pop(0), ApiProblem):
                raise line
            yield line


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that is asked again at once."""
    monkeypatch.setattr(pod_logs, "POLL_S", 0.0)
    return Server()


def logs_of(server: Server, tell: Callable[[str], None] = lambda _: None) -> PodLogs:
    """Return the logs of a run there."""
    run = to_run(
        {
            "metadata": {
                "name": "b",
                "namespace": "lab",
                "uid": "u",
                "resourceVersion": "1",
                "creationTimestamp": "2026-11-25T12:00:00Z",
            }
        }
    )
    assert isinstance(run, ClusterRun)
    return PodLogs(ClusterRuns(server, "lab"), run, tell=tell)  # type: ignore[arg-type]  # asks for two things only


def test_a_stream_that_breaks_goes_on_behind_the_last_line(server: Server) -> None:
    server.pods = [pod("b-1-0", phase="Succeeded")]
    server.lines["b-1-0"] = [
        "2026-11-25T12:00:01.5Z one",
        "2026-11-25T12:00:01.51Z two",
        ApiProblem(0, "Broken", "reset"),
        "2026-11-25T12:00:01.500000000Z one",
        "2026-11-25T12:00:01.510000000Z two",
        "2026-11-25T12:00:02Z three",
        "without a time",
    ]

    found = list(logs_of(server).follow(lines=10, is_over=lambda: True))

    assert ["one", "two", "three", "without a time"] == found
    assert [None, "2026-11-25T12:00:01Z"] == [query.get("sinceTime") for _, query in server.asked]


def test_following_begins_in_the_middle_of_the_newest_pod_and_goes_on_with_the_next_attempt(server: Server) -> None:
    server.pods = [pod("b-1-0", phase="Failed"), pod("b-2-0", attempt=2, phase="Failed")]
    server.lines = {"b-1-0": ["old"], "b-2-0": ["second"], "b-3-0": ["third"]}
    looks = iter([False, False, True])

    def is_over() -> bool:
        over = next(looks)
        if not over and len(server.asked) == 1:
            server.pods.append(pod("b-3-0", attempt=3, phase="Succeeded"))
        return over

    assert ["second", "third"] == list(logs_of(server).follow(lines=10, is_over=is_over))
    assert [("b-2-0", 10), ("b-3-0", None)] == [(name, query.get("tailLines")) for name, query in server.asked]


def test_without_following_the_newest_pod_that_has_said_something_counts(server: Server) -> None:
    server.pods = [pod("b-1-0", phase="Failed"), pod("b-2-0", attempt=2, phase="Pending")]
    server.lines = {"b-1-0": ["old"], "b-2-0": [ApiProblem(400, "BadRequest", "is waiting to start")]}

    assert ["old"] == logs_of(server).newest(lines=5)


def test_a_user_without_the_right_is_told(server: Server) -> None:
    server.pods = [pod("b-1-0")]
    server.lines = {"b-1-0": [ApiProblem(403, "Forbidden", "may not")]}

    with pytest.raises(InvalidConfig, match="reading the log of b-1-0: may not"):
        logs_of(server).newest(lines=5)


def test_a_status_of_another_release_is_told() -> None:
    with pytest.raises(InvalidConfig, match=r"status.phase is not what this release of sam3ft knows"):
        to_run(
            {
                "metadata": {
                    "name": "b",
                    "uid": "u",
                    "resourceVersion": "1",
                    "creationTimestamp": "2026-11-25T12:00:00Z",
                },
                "status": {"phase": "Levitating"},
            }
        )


def test_a_stream_that_stays_away_is_told_and_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(second) for second in range(0, 10_000, 20))  # each look at it takes 20 s
    monkeypatch.setattr(pod_logs, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    monkeypatch.setattr(pod_logs, "OPENED_S", 60.0)
    server.pods = [pod("b-1-0")]
    server.lines["b-1-0"] = ["2026-11-25T12:00:01Z one", *[ApiProblem(503, "Unavailable", "away")] * 100]
    told: list[str] = []
    lines = logs_of(server, told.append).follow(lines=10, is_over=lambda: False)

    assert "one" == next(lines)
    with pytest.raises(TransientError, match=r"reading the log of b-1-0, for 160 s: .*away"):
        next(lines)
    assert ["the log of b-1-0 broke off (away); opening it again"] == told


def test_a_stream_that_stood_for_long_without_a_line_is_opened_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(float(second) for second in range(0, 10**7, 3600))
    monkeypatch.setattr(pod_logs, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
    server.pods = [pod("b-1-0", phase="Succeeded")]
    server.lines["b-1-0"] = [*[ApiProblem(0, "Broken", "timed out")] * 100, "2026-11-25T12:00:01Z one"]

    assert ["one"] == list(logs_of(server).follow(lines=10, is_over=lambda: True))


def test_lines_are_taken_as_they_come_whatever_their_clock_says(server: Server) -> None:
    server.pods = [pod("b-1-0", phase="Succeeded")]
    server.lines["b-1-0"] = [
        "2026-11-25T12:00:02.5Z one",
        "2026-11-25T12:00:02.5Z of the same moment",
        "2026-11-25T12:00:01Z of a clock that went back",
        "2026-11-25T14:00:03+02:00 of a node in another zone",
        ApiProblem(0, "Broken", "reset"),
        "2026-11-25T12:00:03Z of a node in another zone",
        "2026-11-25T12:00:04Z new",
    ]
    found = list(logs_of(server).follow(lines=10, is_over=lambda: True))

    expected = ["one", "of the same moment", "of a clock that went back", "of a node in another zone", "new"]
    assert expected == found
    assert "2026-11-25T12:00:03Z" == server.asked[1][1]["sinceTime"]


def test_a_stream_that_ends_while_its_pod_runs_is_opened_again(server: Server) -> None:
    server.pods = [pod("b-1-0", phase="Running")]
    server.lines["b-1-0"] = ["2026-11-25T12:00:01Z one"]

    def then(*_: object) -> list[dict[str, Any]]:
        server.pods = [pod("b-1-0", phase="Running" if len(server.asked) < 2 else "Succeeded")]
        if len(server.asked) == 1:
            server.lines["b-1-0"] = ["2026-11-25T12:00:02Z two"]
        return server.pods

    logs = logs_of(server)
    logs._runs.pods = then  # type: ignore[method-assign,assignment]
    assert ["one", "two"] == list(logs.follow(lines=10, is_over=lambda: True))


def test_a_pod_whose_log_is_refused_is_not_one_without_a_log(server: Server) -> None:
    server.pods = [pod("b-1-0")]
    server.lines = {"b-1-0": [ApiProblem(400, "BadRequest", "a container name must be specified")]}
    with pytest.raises(InvalidConfig, match="a container name must be specified"):
        logs_of(server).newest(lines=5)
    assert "trainer" == server.asked[0][1]["container"]


def test_a_condition_of_a_newer_operator_is_left_out() -> None:
    moment = "2026-11-25T12:00:00Z"
    conditions = [
        {"type": type_, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": moment}
        for type_ in ("Running", "Levitating")
    ]
    metadata = {"name": "b", "uid": "u", "resourceVersion": "1", "creationTimestamp": moment}

    run = to_run({"metadata": metadata, "status": {"phase": "Running", "conditions": conditions}})
    assert ["Running"] == [condition.type for condition in run.status.conditions]
