"""Several launchers and a coordinator on this machine, one node each, over one run in a bucket: nodes come and go."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sam3ft_api.training import StorageConfig, TrainingConfig
from sam3ft_launch.prepare import load
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.history import History
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.uri import open_store

TOKEN = "a-token-of-this-test-0123456789"  # noqa: S105 - guards nothing
HERE = "127.0.0.1"
PATIENCE_S = 240.0


@dataclass
class Nodes:
    """A coordinator and its launchers, each with one worker.

    Attributes:
        folder: of all nodes.
        spec: the run, as `sam3ft run` takes it.
        environment: of every process.
        launchers: by slot, those that were not killed or sent away.
        done: what was done to them, for messages.
    """

    folder: Path
    spec: Path
    environment: dict[str, str]
    launchers: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    _all: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Write the config document of all nodes."""
        config = load(self.spec, assignments=()).config
        export = config.export.model_copy(update={"uri": str(self.folder / "model")})
        self.config: TrainingConfig = config.model_copy(update={"export": export})
        (self.folder / "config.json").write_text(self.config.model_dump_json())

    def start_coordinator(self, nodes: int, *, min_nodes: int = 1) -> None:
        """Start it; the first round waits for so many nodes, later ones for `min_nodes`."""
        port_file = self.folder / "coordinator.json"
        argv = ["sam3ft_launch.coordinator", "--listen", f"{HERE}:0", "--port-file", str(port_file)]
        argv += ["--nodes", str(nodes), "--min-nodes", str(min_nodes), "--max-nodes", "8"]
        self._spawn(argv, "coordinator")
        self.wait_for(port_file.exists, "the coordinator's port")
        self._port = json.loads(port_file.read_text())["port"]

    def join(self, slot: int) -> None:
        """Start a node's launcher with one worker, or start it again."""
        argv = ["sam3ft_trainer.run.launcher", "--config", str(self.folder / "config.json")]
        argv += ["--work-dir", str(self.work(slot)), "--coordinator", f"{HERE}:{self._port}", "--nproc", "1"]
        argv += ["--node", f"node-{slot}", "--slot", str(slot), "--max-restarts", "100"]
        argv += ["--max-without-progress", "50", "--eviction-grace-s", "100"]
        self.launchers[slot] = self._spawn(argv, f"launcher-{slot}")
        self.done.append(f"node {slot} joins")

    def kill_rank(self, slot: int) -> None:
        """Kill -9 the worker of a node."""
        for worker in psutil.Process(self.launchers[slot].pid).children():
            worker.kill()
        self.done.append(f"rank on node {slot} killed")

    def kill_launcher(self, slot: int) -> None:
        """Kill -9 a launcher; the kernel ends its worker."""
        launcher = self.launchers.pop(slot)
        launcher.kill()
        launcher.wait()
        self.done.append(f"launcher {slot} killed")

    def send_away(self, slot: int) -> None:
        """SIGTERM a launcher, as an eviction does, and wait for its end."""
        launcher = self.launchers.pop(slot)
        launcher.send_signal(signal.SIGTERM)
        code = launcher.wait(PATIENCE_S)
        self.done.append(f"node {slot} sent away, ended with {code}")

    def work(self, slot: int) -> Path:
        """A node's work folder."""
        return self.folder / f"work-{slot}"

    def history(self) -> History:
        """The commit log."""
        assert self.config.checkpoint.uri is not None
        access = run_access(StorageConfig(), self.environment)
        return CommitLog(open_store(self.config.checkpoint.uri, access=access)).read()

    def newest_step(self) -> int:
        """Step of the newest commit, 0 without one."""
        return max((commit.meta.step for commit in self.history().commits), default=0)

    def wait_step(self, step: int) -> None:
        """Wait for a commit of a step or a later one."""
        self.wait_for(lambda: self.newest_step() >= step, f"a commit of step {step}")

    def codes(self) -> dict[int, int]:
        """Wait for the ends of the launchers that are left, and return their codes."""
        return {slot: launcher.wait(PATIENCE_S) for slot, launcher in self.launchers.items()}

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come; {self.done}\n{self.told()}"
            time.sleep(0.1)

    def told(self) -> str:
        """The ends of all logs."""
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """Kill whatever is left."""
        for process in self._all:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _spawn(self, argv: list[str], name: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *argv],
                env={**os.environ, **self.environment, "SAM3FT_TOKEN": TOKEN},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._all.append(process)
        return process


def play(nodes: Nodes, draw: random.Random, *, first: int, most: int, events: int, steps: int, resize: bool) -> None:
    """Start `first` nodes and let so many drawn events happen, each after some more commits; then let the run end.

    Args:
        nodes: with a coordinator that waits for `first`.
        draw: of the schedule.
        first: nodes at the start.
        most: nodes at any time.
        events: how many.
        steps: of the run; events end well before them.
        resize: nodes may come and go; without it only those that were killed come again.
    """
    for slot in range(first):
        nodes.join(slot)
    for number in range(events):
        nodes.wait_step(max(nodes.newest_step(), 2 + number * (steps - 4) // events))
        kinds = ["kill_rank", "replace"]
        if resize:
            kinds += ["join"] * (len(nodes.launchers) < most) * 2
            kinds += ["kill_launcher", "send_away"] * (len(nodes.launchers) > 1)
        kind = draw.choice(kinds)
        slot = draw.choice(sorted(nodes.launchers))
        if kind == "join":
            nodes.join(min(set(range(most)) - set(nodes.launchers)))
        elif kind == "replace":
            nodes.kill_launcher(slot)
            nodes.join(slot)
        else:
            getattr(nodes, kind)(slot)
