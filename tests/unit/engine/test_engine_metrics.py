"""Metrics and probes."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sam3ft_operator import metrics as metrics_module
from sam3ft_operator.metrics import Metrics
from sam3ft_operator.probes import AT_ONCE, Probes

RUN: dict[str, Any] = {
    "metadata": {"name": "blood", "namespace": "lab", "uid": "u"},
    "spec": {"backend": "kubernetes", "task": "detection"},
    "status": {
        "phase": "Running",
        "restarts": 2,
        "progress": {"ratio": 0.3, "etaSeconds": 4800, "lastStepTime": "2026-11-25T10:00:00Z"},
        "checkpoint": {"time": "2026-11-25T09:59:00Z"},
        "goodput": {"ratio": 0.9, "lostSeconds": {"start": 12}},
    },
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of a scrape, as Prometheus reads it."""
    text = metrics.text().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


JOB = (("job_name", "blood"), ("namespace", "lab"))


def test_a_run_has_its_figures() -> None:
    found = samples(Metrics(lambda: [RUN]))

    assert 0.3 == found["sam3ft_job_progress_ratio", JOB]
    assert 4800.0 == found["sam3ft_job_eta_seconds", JOB]
    assert 2.0 == found["sam3ft_job_restarts_total", JOB]
    assert 12.0 == found["sam3ft_job_lost_seconds_total", (("cause", "start"), *JOB)]
    assert (
        60.0
        == found["sam3ft_job_last_step_timestamp_seconds", JOB] - found["sam3ft_job_checkpoint_timestamp_seconds", JOB]
    )


def test_a_run_has_one_series_of_its_phase() -> None:
    found = samples(Metrics(lambda: [RUN]))
    phases = [labels for name, labels in found if name == "sam3ft_job_phase"]

    assert [(*JOB, ("phase", "Running"))] == phases
    assert 1.0 == found["sam3ft_jobs", (("backend", "kubernetes"), ("phase", "Running"))]


def test_a_condition_that_is_not_as_it_should_be_is_a_series_while_it_is_not() -> None:
    conditions = [
        {"type": "Accepted", "status": "True", "reason": "Accepted"},
        {"type": "Scheduled", "status": "False", "reason": "Unschedulable"},
        {"type": "Running", "status": "False", "reason": "NotYet"},  # nothing to do about that
        {"type": "Degraded", "status": "False", "reason": "AsExpected"},
        {"type": "BackendReachable", "status": "Unknown", "reason": "AgentSilent"},
        {"type": "Stalled", "status": "True", "reason": "Held"},
        "not a condition",
    ]
    run = {**RUN, "status": {**RUN["status"], "conditions": conditions}}
    found = samples(Metrics(lambda: [run]))
    problems = [dict(labels) for name, labels in found if name == "sam3ft_job_problem"]

    assert [("Scheduled", "Unschedulable"), ("BackendReachable", "AgentSilent"), ("Stalled", "Held")] == [
        (labels["type"], labels["reason"]) for labels in problems
    ]


ON_A_SITE: dict[str, Any] = {
    **RUN,
    "spec": {"backend": "slurm", "task": "detection"},
    "status": {
        "phase": "Running",
        "progress": {"step": 30, "totalSteps": 100, "epoch": 1.5, "etaSeconds": 70, "imagesPerSecond": 8, "loss": 3.5}
        | {"lastStepTime": "2026-11-25T10:00:00Z"},
        "checkpoint": {"step": 20, "time": "2026-11-25T09:59:00Z"},
        "best": {"metric": "bbox_AP", "value": 0.4, "step": 20},
        "workers": {"world": 16},
    },
}


def test_a_run_on_a_site_has_the_series_that_a_coordinator_shows_elsewhere() -> None:
    found = samples(Metrics(lambda: [ON_A_SITE]))

    expected = {
        "step": 30.0,
        "planned_steps": 100.0,
        "epoch": 1.5,
        "eta_seconds": 70.0,
        "images_per_second": 8.0,
        "world_size": 16.0,
        "best_step": 20.0,
        "checkpoint_step": 20.0,
    }
    assert expected == {name: found[f"sam3ft_train_{name}", JOB] for name in expected}
    assert 3.5 == found["sam3ft_train_loss", (("component", "total"), *JOB)]
    assert 0.4 == found["sam3ft_train_best_metric", tuple(sorted((*JOB, ("name", "bbox_AP"))))]
    times = [found[f"sam3ft_train_{name}_timestamp_seconds", JOB] for name in ("last_step", "checkpoint")]
    assert 60.0 == times[0] - times[1]


@pytest.mark.parametrize("changes", [{"spec": RUN["spec"]}, {"status": {**ON_A_SITE["status"], "phase": "Suspended"}}])
def test_a_run_that_has_a_coordinator_or_does_not_run_has_none_of_them(changes: dict[str, Any]) -> None:
    found = samples(Metrics(lambda: [ON_A_SITE | changes]))

    assert [] == [name for name, _ in found if name.startswith("sam3ft_train_")]


def test_series_go_with_their_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "KEPT_S", 0.0)
    runs = [RUN]
    metrics = Metrics(lambda: runs)
    samples(metrics)
    runs.clear()

    assert [] == [labels for name, labels in samples(metrics) if name.startswith("sam3ft_job") and JOB[0] in labels]


def test_a_scrape_is_computed_once_for_many_that_ask() -> None:
    asked: list[int] = []

    def read() -> list[dict[str, Any]]:
        asked.append(1)
        return []

    metrics = Metrics(read)
    for _ in range(5):
        metrics.text()

    assert [1] == asked


@pytest.mark.parametrize(
    "status",
    [
        None,
        {},
        {"progress": 3},
        {"progress": {"ratio": "x"}},
        {"goodput": {"lostSeconds": [1]}},
        {"phase": 7, "restarts": None},
    ],
)
def test_a_status_of_another_form_is_no_error(status: object) -> None:
    assert Metrics(lambda: [RUN | {"status": status}]).text()


def test_an_attempt_that_ends_is_counted_once_by_its_reason() -> None:
    metrics = Metrics(list)
    running = {"attempts": [{"n": 1, "reason": ""}]}
    ended = {"attempts": [{"n": 1, "reason": "Hung"}]}
    metrics.status_written(running, ended, now_s=0.0)
    metrics.status_written(ended, ended, now_s=0.0)
    metrics.status_written({}, {"attempts": [{"n": 1, "reason": "{evil}"}]}, now_s=0.0)
    found = samples(metrics)

    assert 1.0 == found["sam3ft_attempts_ended_total", (("reason", "Hung"),)]
    assert 1.0 == found["sam3ft_attempts_ended_total", (("reason", "Other"),)]


def test_the_wait_until_a_run_runs_is_observed() -> None:
    metrics = Metrics(list)
    attempts = [{"n": 1, "started": "1970-01-01T00:01:00Z"}]
    metrics.status_written({"phase": "Starting"}, {"phase": "Running", "attempts": attempts}, now_s=90.0)
    metrics.status_written({"phase": "Running"}, {"phase": "Running", "attempts": attempts}, now_s=99.0)
    found = samples(metrics)

    assert (1.0, 30.0) == (
        found["sam3ft_job_queue_wait_seconds_count", ()],
        found["sam3ft_job_queue_wait_seconds_sum", ()],
    )


def test_answers_of_the_server_and_looks_are_counted() -> None:
    metrics = Metrics(list)
    metrics.requested("create", "Job", 201)
    metrics.looked(0.01, failed=True)
    found = samples(metrics)

    assert 1.0 == found["sam3ft_api_requests_total", (("code", "201"), ("kind", "Job"), ("verb", "create"))]
    assert (1.0, 1.0) == (
        found["sam3ft_reconcile_errors_total", ()],
        found["sam3ft_reconcile_duration_seconds_count", ()],
    )


class Served:
    """Probes of which a test says what is wrong."""

    def __init__(self) -> None:
        """Serve."""
        self.live: list[str] = []
        self.ready: list[str] = []
        self.probes = Probes("127.0.0.1", 0, live=lambda: self.live, ready=lambda: self.ready, metrics=lambda: b"a 1\n")
        self.probes.start()

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.probes.port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found


@pytest.fixture
def served() -> Iterator[Served]:
    """Probes."""
    found = Served()
    yield found
    found.probes.close()


def test_probes_say_what_is_wrong(served: Served) -> None:
    assert (200, "ok\n") == served.get("/healthz")
    served.live = ["the watch of pods is stuck"]

    assert (503, "the watch of pods is stuck\n") == served.get("/healthz")
    assert (200, "ok\n") == served.get("/readyz")
    assert (200, "a 1\n") == served.get("/metrics")
    assert 404 == served.get("/debug")[0]


def test_clients_that_say_nothing_do_not_pile_up(served: Served) -> None:
    silent = [socket.create_connection(("127.0.0.1", served.probes.port)) for _ in range(AT_ONCE + 4)]
    try:
        until(lambda: any(is_closed(client) for client in silent))
    finally:
        for client in silent:
            client.close()
    until(lambda: served.get("/healthz")[0] == 200)


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds; a connection that is cut off is not yet."""
    give_up_s = time.monotonic() + 10
    while True:
        try:
            if condition():
                return
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


def is_closed(client: socket.socket) -> bool:
    """Tell whether the other side has closed a connection."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
