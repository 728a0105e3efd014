"""Real coordinators and launchers in temporary folders; whatever a test leaves is killed."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam3ft_api.termination import Termination

TOKEN = "a-token-of-this-test-0123456789"  # noqa: S105 - guards nothing
SCRIPTED = Path(__file__).with_name("scripted_worker.py")


def wait_for(condition: Callable[[], Any], *, within_s: float = 90.0, what: str = "the condition") -> Any:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {within_s:g} s")


def is_alive(pid: int) -> bool:
    """Return True for a process that runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Node:
    """One launcher with scripted workers."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.work = folder / "work"
        self.output = folder / "launcher.log"
        self.termination_log = folder / "termination.json"

    def wait(self, within_s: float = 120.0) -> int:
        """Return the exit code as a shell shows it."""
        code = self.process.wait(within_s)
        return 128 - code if code < 0 else code

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def starts(self, local_rank: int = 0) -> list[dict[str, Any]]:
        path = self.work / f"starts-{local_rank}"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_starts(self, count: int, local_rank: int = 0) -> list[dict[str, Any]]:
        def enough() -> list[dict[str, Any]] | None:
            found = self.starts(local_rank)
            return found if len(found) >= count else None

        return wait_for(enough, what=f"start {count} of local rank {local_rank}\n{self.text()}")

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def log(self, rank: int = 0) -> str:
        return (self.work / "logs" / f"rank-{rank}.log").read_text()

    def termination(self) -> Termination:
        raw = self.termination_log.read_bytes()
        assert len(raw) <= 4096
        return Termination.model_validate_json(raw)


class Site:
    """A folder with a coordinator and launchers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.coordinator: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, Any] = {}

    def start_coordinator(self, *arguments: str, port: int = 0, token: str = TOKEN) -> None:
        port_file = self.folder / "coordinator.json"
        port_file.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "sam3ft_launch.coordinator", "--listen", f"127.0.0.1:{port}"]
        argv += ["--port-file", str(port_file), *arguments]
        self.coordinator = self.spawn(argv, self.folder / "coordinator.log", token)
        wait_for(port_file.exists, what="the coordinator's port file")
        self.ports = json.loads(port_file.read_text())

    def start_node(
        self,
        *scripts: str,
        arguments: tuple[str, ...] = (),
        token: str = TOKEN,
        slot: int = 0,
        prefix: tuple[str, ...] = (),
        config: dict[str, Any] | None = None,
        command: tuple[str, ...] | None = None,
    ) -> Node:
        folder = self.folder / f"node-{slot}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config or {"runtime": {"device": "cpu"}}))
        argv = [*prefix, sys.executable, "-m", "sam3ft_trainer.run.launcher", "--config", str(folder / "config.json")]
        argv += ["--work-dir", str(folder / "work"), "--coordinator", f"127.0.0.1:{self.ports['port']}"]
        argv += ["--node", f"node-{slot}", "--slot", str(slot), "--termination-log", str(folder / "termination.json")]
        argv += [*arguments, "--", *(command or (sys.executable, "-S", str(SCRIPTED))), *scripts]
        return Node(self.spawn(argv, folder / "launcher.log", token), folder)

    def progress(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['progress_port']}/progress", timeout=5) as answer:
            return json.load(answer)

    def spawn(self, argv: list[str], log: Path, token: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SAM3FT_TOKEN": token, "OMP_NUM_THREADS": "1"}
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv, env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
