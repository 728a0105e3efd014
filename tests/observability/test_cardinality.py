"""How many series 200 runs make in a real Prometheus: printed, and bounded for each run."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from benchmarks.metrics import coordinator_text, operator_text
from prometheus_server import PrometheusServer, Target
from waiting import wait_for

RUNS = 200
RANKS = [64 if number % 20 == 0 else 8 if number % 5 == 0 else 1 for number in range(RUNS)]
"""Of each run: ten on eight nodes, thirty on one node of eight devices, the rest on one device."""
OF_A_COORDINATOR, OF_AN_OPERATOR, OWN = 750, 20, 250
"""Most series of a run with 64 ranks at its coordinator, of a run at each operator, and of an operator about itself."""


@pytest.fixture
def address() -> Iterator[str]:
    """Serve what 200 coordinators and two operators answer, at paths of their own."""
    answers = {f"/runs/{number}": coordinator_text(ranks) for number, ranks in enumerate(RANKS)}
    answers["/operator"] = operator_text(RUNS)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers[self.path]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # Prometheus ends in the middle of an answer
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _num_scraped(prometheus: PrometheusServer) -> int:
    return sum(target["health"] == "up" for target in prometheus.targets().values())


def test_series_of_200_runs_are_bounded(address: str, tmp_path: Path) -> None:
    runs = [
        Target(f"run-{number}", address, {"job_name": f"run-{number}", "namespace": "team"}, path=f"/runs/{number}")
        for number in range(RUNS)
    ]
    operators = [Target(f"operator-{number}", address, path="/operator", honors_labels=True) for number in range(2)]
    with PrometheusServer(tmp_path, [*runs, *operators], every_s=10) as prometheus:
        wait_for("all have been scraped", lambda: _num_scraped(prometheus) == RUNS + 2, within_s=60)
        scraped = {
            found["metric"]["job"]: int(found["value"][1])
            for found in prometheus.now("scrape_samples_post_metric_relabeling")
        }
        kept = prometheus.kept_series()

    by_ranks = {ranks: scraped[f"run-{RANKS.index(ranks)}"] for ranks in (1, 8, 64)}
    print(f"{RUNS} runs: {kept:,} series; at its coordinator a run has {by_ranks} by ranks, each operator", end=" ")
    print(f"{scraped['operator-0']:,} for all, {scraped['operator-0'] / RUNS:.1f} a run")
    assert scraped == {
        **{f"run-{number}": by_ranks[ranks] for number, ranks in enumerate(RANKS)},
        **dict.fromkeys(("operator-0", "operator-1"), scraped["operator-0"]),
    }
    assert by_ranks[1] < by_ranks[8] < by_ranks[64] <= OF_A_COORDINATOR
    assert scraped["operator-0"] <= RUNS * OF_AN_OPERATOR + OWN
    assert kept <= sum(scraped.values()) + 6 * len(scraped), "no name is made anew at each scrape"
