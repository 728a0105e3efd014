"""What metrics cost: the trainer at each step, a coordinator at each scrape, the operator with many runs.

    python -m benchmarks.metrics [--rounds 15] [--runs 2000]

Every figure is the median of some rounds, with the least and the most. Beside the trainer's own update stands, as a
peer, what the client library of Prometheus takes for the same news: one histogram, three gauges, one counter. It is
also the peer of the lines of single ranks.
"""

import argparse
import gc
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sam3ft_api import limits
from sam3ft_api.messages import Heartbeat, Hello, Ready
from sam3ft_api.worker import STEP_BOUNDS_S, Progress, RankFigures, StepFigures, StepTimes
from sam3ft_launch.coordinator import exposition as coordinator_exposition
from sam3ft_launch.coordinator.counts import Counts
from sam3ft_launch.coordinator.metrics import finite
from sam3ft_launch.coordinator.rank_lines import RANK_GAUGES, RANK_PARTS, rank_lines, ranks_shown
from sam3ft_launch.coordinator.rounds import Rounds
from sam3ft_launch.coordinator.settings import Settings
from sam3ft_operator import metrics as operator_metrics
from sam3ft_operator.metrics import Metrics
from sam3ft_trainer.run.events import RunReporter
from sam3ft_trainer.run.meter import Meter
from sam3ft_trainer.run.progress import Pace

STEPS = 2_000
_OF_A_RANK = [name for name in RankFigures.model_fields if name != "rank"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=2_000, help="resources that the operator shows")
    given = parser.parse_args(arguments)
    rows = [
        ("one step of the trainer, us", timed(step_updates(), given.rounds, scale=1e6 / STEPS)),
        ("the same news by the client library, us", timed(peer_updates(), given.rounds, scale=1e6 / STEPS)),
        ("a scrape of a coordinator, 1 rank, ms", timed(coordinator(1), given.rounds, scale=1e3)),
        ("a scrape of a coordinator, 64 ranks on 8 nodes, ms", timed(coordinator(64), given.rounds, scale=1e3)),
        ("of it the ranks' own lines, ms", timed(own_lines(64), given.rounds, scale=1e3)),
        ("the same lines by the client library, ms", timed(peer_lines(64), given.rounds, scale=1e3)),
        (f"a scrape of an operator with {given.runs:,} runs, ms", timed(operator(given.runs), given.rounds, scale=1e3)),
        ("the same within five seconds of another, ms", timed(kept_answer(given.runs), given.rounds, scale=1e3)),
    ]
    print("| figure | median | least | most |\n|---|---|---|---|")
    for name, found in rows:
        print(f"| {name} | {statistics.median(found):.3g} | {min(found):.3g} | {max(found):.3g} |")
    one, many = series(coordinator_text(1)), series(coordinator_text(64))
    per_run = (series(operator_text(200)) - series(operator_text(0))) / 200
    print(f"\nseries of a run: {one} by its coordinator with one rank, {many} with 64; {per_run:.1f} by each operator")
    return 0


def timed(act: Callable[[], object], rounds: int, *, scale: float) -> list[float]:
    """Return the time of `act` in each round; the first one is not counted."""
    found = []
    act()
    for _ in range(rounds):
        gc.collect()
        begun_s = time.perf_counter()
        act()
        found.append((time.perf_counter() - begun_s) * scale)
    return found


def step_updates() -> Callable[[], None]:
    """Return what the trainer does for its metrics, of many steps; files are written as often as in a run."""
    folder = Path(tempfile.mkdtemp(prefix="bench-metrics-"))
    reporter = RunReporter(folder, run="bench", attempt=1, tensorboard=False, echo=False)
    pace, meter = Pace(), Meter(device=torch.device("cpu"))
    reporter.progress(state="training", force=True)

    def act() -> None:
        for step in range(STEPS):
            meter.ask_step(8)
            meter.end_step()
            pace.count_step(8)
            reporter.progress(
                state="training",
                message="",
                step=step,
                total_steps=STEPS,
                epoch=step / 100,
                eta_s=pace.seconds_per_step,
                loss=1.0,
                learning_rate=1e-4,
                skipped_steps=0,
                world_size=1,
                last_step_unix_s=time.time(),
                figures=meter.newest(),
            )

    return act


def peer_updates() -> Callable[[], None]:
    """Return the same with the client library."""
    registry = CollectorRegistry()
    histogram = Histogram("step_seconds", "Steps.", registry=registry, buckets=STEP_BOUNDS_S)
    gauges = [Gauge(f"gauge_{number}", "A gauge.", registry=registry) for number in range(3)]
    counter = Counter("steps", "Steps.", registry=registry)

    def act() -> None:
        for step in range(STEPS):
            histogram.observe(0.1)
            for gauge in gauges:
                gauge.set(step)
            counter.inc()

    return act


def _trained(ranks: int) -> tuple[Rounds, Counts]:
    """Return the state of a coordinator whose run trains with so many ranks, eight on a node."""
    nodes = max(1, ranks // 8)
    settings = Settings(attempt=1, nodes=nodes, min_nodes=1, max_nodes=nodes)
    rounds, counts = Rounds(settings, now_s=0.0), Counts()
    for slot in range(nodes):
        hello = Hello(
            node=f"n{slot}", slot=slot, instance="a", started_unix_s=0.0, attempt=1, token="t" * 32, addr="127.0.0.1"
        )
        rounds.hello(slot, hello, now_s=0.0)
        rounds.received(slot, Ready(addr="127.0.0.1", port=20000), now_s=0.0)
    for tick in range(1, 6):
        rounds.tick(now_s=tick / 10)
    progress = Progress(
        state="training",
        step=100,
        total_steps=1000,
        loss=1.0,
        metrics={f"metric_{number}": 0.5 for number in range(12)},
        figures=StepFigures(
            grad_norm=1.0,
            losses={f"loss_{number}": 0.5 for number in range(14)},
            scores={"ce_f1": 0.5},
            steps=StepTimes(counts=(1,) * (len(STEP_BOUNDS_S) + 1), total_s=10.0),
            data_wait_s=1.0,
            flops_share=0.3,
            save_s=1.0,
            save_bytes=1,
            ranks=tuple(
                RankFigures.model_validate({"rank": rank} | dict.fromkeys(_OF_A_RANK, 1))
                for rank in range(min(ranks, limits.MAX_RANKS_SHOWN))
            ),
        ),
    )
    rounds.received(0, Heartbeat(seq=1, round=1, step=100, commit_step=50, progress=progress), now_s=0.6)
    counts.learn(progress, now_unix_s=0.0)
    return rounds, counts


def coordinator(ranks: int) -> Callable[[], object]:
    """Return a scrape of a coordinator over HTTP, of which nothing is kept from another."""
    coordinator_exposition.KEPT_S = -1.0
    exposition = coordinator_exposition.Exposition(*_trained(ranks))
    return _over_http(lambda: exposition.answer("", now_s=time.monotonic())[1])


def own_lines(ranks: int) -> Callable[[], object]:
    """Return what makes the series of single ranks."""
    progress = _trained(ranks)[0].progress
    return lambda: rank_lines(ranks_shown(progress)).encode()


def peer_lines(ranks: int) -> Callable[[], object]:
    """Return the same with the client library."""
    shown = ranks_shown(_trained(ranks)[0].progress)

    class Collected(Collector):
        def collect(self) -> Iterator[Metric]:
            for name, text, read in RANK_GAUGES:
                family = GaugeMetricFamily(name, text, labels=["rank"])
                for rank in shown:
                    if (value := finite(read(rank))) is not None:
                        family.add_metric([str(rank.rank)], value)
                yield family
            parts = GaugeMetricFamily("sam3ft_train_rank_step_seconds", "Seconds of a step.", labels=["rank", "part"])
            for rank in shown:
                for part, read in RANK_PARTS:
                    if (value := finite(read(rank))) is not None:
                        parts.add_metric([str(rank.rank), part], value)
            yield parts

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return lambda: generate_latest(registry)


def coordinator_text(ranks: int) -> bytes:
    """Return a coordinator's answer."""
    return coordinator_exposition.Exposition(*_trained(ranks)).answer("", now_s=10.0)[1]


def _resource(number: int) -> dict[str, Any]:
    times = {"lastStepTime": "2026-11-26T10:00:00Z"}
    return {
        "metadata": {"name": f"run-{number}", "namespace": f"team-{number % 20}"},
        "spec": {"backend": "slurm" if number % 10 == 0 else "kubernetes", "task": "detection", "slurm": {"site": "a"}},
        "status": {
            "phase": "Running",
            "restarts": 1,
            "progress": {"step": 1, "totalSteps": 2, "epoch": 0.5, "ratio": 0.5, "etaSeconds": 1, "loss": 1.0} | times,
            "checkpoint": {"step": 1, "time": "2026-11-26T10:00:00Z"},
            "best": {"metric": "bbox_AP", "value": 0.5, "step": 1},
            "goodput": {"ratio": 0.9, "lostSeconds": {"queue": 1, "start": 2, "restart": 3}},
            "workers": {"desired": 8, "ready": 8, "world": 64},
            "conditions": [
                {"type": kind, "status": "True", "reason": "AsExpected"}
                for kind in ("Accepted", "DatasetReady", "Scheduled", "Running", "BackendReachable")
            ],
        },
    }


def operator_text(runs: int) -> bytes:
    """Return an operator's answer."""
    resources = [_resource(number) for number in range(runs)]
    return Metrics(lambda: resources).text()


def operator(runs: int) -> Callable[[], object]:
    """Return a scrape of an operator over HTTP that is computed for it."""
    resources = [_resource(number) for number in range(runs)]

    operator_metrics.KEPT_S = -1.0
    return _over_http(Metrics(lambda: resources).text)


def kept_answer(runs: int) -> Callable[[], object]:
    """Return a scrape of an operator over HTTP that another has paid for."""
    text = operator_text(runs)
    return _over_http(lambda: text)


def _over_http(answer: Callable[[], bytes]) -> Callable[[], object]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def act() -> object:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
        connection.close()
        return body

    return act


def series(text: bytes) -> int:
    """Return how many series an answer has."""
    return sum(not line.startswith(b"#") for line in text.splitlines())


if __name__ == "__main__":
    raise SystemExit(main())
