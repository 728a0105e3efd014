"""What the dashboards are looked at with: a real operator, a real run behind a cluster's coordinator, one on a site.

No kubelet starts pods here, so the run of the cluster trains on this machine, and the coordinator's pod has an address
at which that run's own coordinator answers: what the operator reads and what Prometheus scrapes is what it says.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from agent_site import SITE, AgentSite
from coordinator_site import FakeCoordinator, send
from prometheus_server import Target
from rounds_bench import Run as Bench
from waiting import wait_for

from sam3ft_api.messages import Heartbeat
from sam3ft_api.worker import Progress, RankFigures, StepFigures
from sam3ft_launch.coordinator.counts import Counts
from sam3ft_launch.coordinator.exposition import Exposition
from sam3ft_launch.kubernetes.settings import PROGRESS_PORT

EXAMPLES = Path(__file__).parents[2] / "examples"
RECORDED = "recorded-h100"
"""Name of the run whose figures were measured before."""
GIB = 1 << 30
LOCAL = (
    "training.maxDuration=null",
    "training.maxSteps=1000000",
    "training.resolution=28",
    "model.uri=preset:tiny-nano",
    "checkpoint.everySteps=20",
    "evaluation.baseline=false",
)
"""A run that trains until it is cancelled, with an evaluation every few seconds."""


class LocalRun:
    """`sam3ft run` on this machine, in a folder of its own, with two processes."""

    def __init__(self, folder: Path, *changes: str) -> None:
        """Start it."""
        self.folder = folder
        self.work = folder / "runs/blood-cells/work"
        folder.mkdir()
        (folder / "examples").symlink_to(EXAMPLES)
        options = [word for change in (*LOCAL, *changes) for word in ("--set", change)]
        self._call("run", "examples/blood-cells.yaml", "--detach", "--nproc", "2", *options)
        place = wait_for(
            "a coordinator", lambda: self.work.joinpath("coordinator.json").exists() and self._place(), within_s=60
        )
        self.port = int(place["progress_port"])

    def _place(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.work.joinpath("coordinator.json").read_text()))
        except ValueError:
            return None

    def _call(self, *words: str) -> None:
        # Below everything else: a run that never waits would slow down all that is looked at here.
        program = ["nice", "-n", "10", str(Path(sys.executable).parent / "sam3ft")]
        done = subprocess.run(
            [*program, *words], cwd=self.folder, capture_output=True, text=True, timeout=240, check=False
        )
        assert 0 == done.returncode, done.stdout + done.stderr

    def signal_trainers(self, number: int) -> None:
        """Send a signal to every process that trains; the launcher and the coordinator get none."""
        for pid in trainers_below(self.folder):
            os.kill(pid, number)

    def end(self) -> None:
        self.signal_trainers(signal.SIGCONT)
        self._call("cancel", "runs/blood-cells")


def trainers_below(folder: Path) -> list[int]:
    """Return the worker processes whose work folder lies in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes()
            output = process.joinpath("fd", "1").readlink()
        except OSError:
            continue
        # Not its environment: /proc has the one that it began with, before it was told its place.
        is_worker = b"sam3ft_trainer.run.worker" in command and output.name.startswith("rank-")
        if is_worker and output.is_relative_to(folder):
            found.append(int(process.name))
    return found


def relays(port: int) -> Any:
    """Return an answer that is the one of another server of this machine."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{handler.path}")
        if accepted := handler.headers.get("Accept"):
            request.add_header("Accept", accepted)
        try:
            with urllib.request.urlopen(request, timeout=5) as told:  # noqa: S310 - its address begins with http
                body, kind = told.read(), told.headers["Content-Type"]
        except OSError as error:
            handler.send_error(502, str(error))
            return
        send(handler, body, kind)

    return answer


@contextmanager
def recorded_gpu() -> Iterator[Target]:
    """Serve what a coordinator would have shown of a run on an H100, with figures of docs/benchmarks.md.

    No GPU is in reach of the tests. 14.52 images/s, 25.1 % of the peak and 38.7 GiB were measured on 2026-11-26
    (detection, one phrase, four images, compiled layers); the series are made by the coordinator's own code.
    """
    progress = Progress(
        state="training",
        step=400,
        total_steps=1000,
        images_per_s=14.52,
        figures=StepFigures(flops_share=0.251, ranks=(RankFigures(rank=0, device_bytes=int(38.7 * GIB)),)),
    )
    bench = Bench(nodes=1, min_nodes=1, max_nodes=1)
    bench.join(0)
    bench.wait(0.3)
    bench.say(0, Heartbeat(seq=1, progress=progress))
    kind, body = Exposition(bench.rounds, Counts()).answer("", now_s=bench.now_s)

    with FakeCoordinator(lambda handler: send(handler, body, kind)) as coordinator:
        labels = {"namespace": "recorded", "job_name": RECORDED}
        yield Target("recorded", f"{coordinator.address}:{PROGRESS_PORT}", labels)


@dataclass(slots=True)
class Live:
    """Everything that runs.

    Attributes:
        site: the cluster's namespace, the operator, the SLURM site and its agents.
        run: the one that trains behind the cluster's coordinator.
        coordinator: stands for the coordinator's pod.
    """

    site: AgentSite
    run: LocalRun
    coordinator: FakeCoordinator

    def targets(self) -> list[Target]:
        """Return what our monitors would find."""
        operators = [
            Target(f"operator-{number}", f"127.0.0.1:{process.port}", {"pod": f"operator-{number}"}, honors_labels=True)
            for number, process in enumerate(self.site.processes)
        ]
        labels = {"namespace": self.site.namespace, "job_name": "blood"}
        return [*operators, Target("coordinator", f"{self.coordinator.address}:{PROGRESS_PORT}", labels)]


def begin_cluster_run(site: AgentSite, coordinator: FakeCoordinator) -> None:
    """Apply a run of the cluster, and let the local run's coordinator stand for its own."""
    uid, _ = site.begin("blood")
    [pod] = site.wait_for_pods(uid, role="coordinator", count=1)
    coordinator.stands_for(site, pod)


def begin_site_run(site: AgentSite, folder: Path) -> None:
    """Apply a run of the SLURM site, which trains there until it is cancelled."""
    site.apply(
        "leaves",
        backend="slurm",
        slurm={"site": SITE},
        model={"uri": "preset:tiny-nano"},
        data={"uri": str(EXAMPLES / "blood-cells")},
        training={"maxSteps": 1_000_000, "globalBatchSize": 2, "resolution": 28},
        workers={"nodes": 1, "gpusPerNode": 0},
        checkpoint={"uri": str(folder / "kept"), "everySteps": 20},
        evaluation={"baseline": False},
    )
