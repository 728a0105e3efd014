"""Groups of real launchers and a real coordinator on one machine, each node in a namespace of its own where asked."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elastic_net import Network
from launcher_site import TOKEN, Node, is_alive, wait_for
from tools_here import need_tool

MEMBER = Path(__file__).with_name("member_worker.py")
GLOO_MEMBER = Path(__file__).with_name("gloo_member.py")
HERE = "127.0.0.1"


class Group:
    """One coordinator and its launchers; a slot that is started again is a replacement on the same node.

    Attributes:
        store: folder in which the members keep steps and commits; see `member_worker`.
        nodes: the newest launcher of each slot.
    """

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        self.folder = folder
        self.network = network
        self.store = folder / "store"
        self.store.mkdir()
        self.nodes: dict[int, Node] = {}
        self.coordinator: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, Any] = {"port": 0}
        self._processes: list[subprocess.Popen[bytes]] = []

    # --- starting ----------------------------------------------------------------------------------------------------

    def start_coordinator(self, *arguments: str, nodes: int = 3, min_nodes: int = 1) -> None:
        """Start it, or start it again on the port that it had."""
        port_file = self.folder / "coordinator.json"
        port_file.unlink(missing_ok=True)
        host = self.network.hub_address if self.network else HERE
        argv = [*self._enter(None), sys.executable, "-m", "sam3ft_launch.coordinator"]
        argv += ["--listen", f"{host}:{self.ports['port']}", "--port-file", str(port_file)]
        argv += ["--nodes", str(nodes), "--min-nodes", str(min_nodes), *arguments]
        self.coordinator = self.spawn(argv, self.folder / "coordinator.log")
        wait_for(port_file.exists, what="the coordinator's port file")
        self.ports = json.loads(port_file.read_text())

    def start(
        self,
        *slots: int,
        processes: int = 1,
        member: Sequence[str] = (),
        arguments: Sequence[str] = (),
        command: Sequence[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        """Start launchers; `member` are arguments of their workers, `command` replaces these, () by the trainer."""
        for slot in slots:
            folder = self.folder / f"node-{slot}"
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps({"runtime": {"device": "cpu"}}))
            argv = [*self._enter(slot), sys.executable, "-m", "sam3ft_trainer.run.launcher"]
            argv += ["--config", str(folder / "config.json"), "--work-dir", str(folder / "work")]
            argv += ["--coordinator", f"{self.ports['host']}:{self.ports['port']}"]
            argv += ["--node", f"node-{slot}", "--slot", str(slot), "--nproc", str(processes)]
            argv += ["--address", self.address(slot), "--termination-log", str(folder / "termination.json")]
            member_worker = (sys.executable, "-I", "-S", str(MEMBER), str(self.store), *member)
            workers = member_worker if command is None else command
            argv += [*arguments, "--", *workers]
            process = self.spawn(argv, folder / "launcher.log", env=env)
            self.nodes[slot] = Node(process, folder)

    def spawn(self, argv: list[str], log: Path, *, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SAM3FT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1", **(env or {})}
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv, env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        self._processes.append(process)
        return process

    def address(self, slot: int) -> str:
        return self.network.address(slot) if self.network else HERE

    def _enter(self, slot: int | None) -> list[str]:
        if self.network is None:
            return []
        return ["ip", "netns", "exec", self.network.hub if slot is None else self.network.node(slot)]

    # --- faults ------------------------------------------------------------------------------------------------------

    def kill(self, slot: int) -> float:
        """Kill a launcher; return when."""
        at = time.monotonic()
        self.nodes[slot].process.kill()
        self.nodes[slot].process.wait()
        return at

    def signal_node(self, slot: int, number: int) -> float:
        """Signal a launcher and its living workers; return when."""
        at = time.monotonic()
        pids = [self.nodes[slot].process.pid, *self.workers(slot)]
        for pid in pids:
            os.kill(pid, number)
        return at

    def cut(self, slot: int) -> float:
        """Separate a node from all others without a word; return when."""
        assert self.network is not None
        at = time.monotonic()
        self.network.cut(slot)
        return at

    def mend(self, slot: int) -> None:
        assert self.network is not None
        self.network.mend(slot)

    def kill_coordinator(self) -> None:
        assert self.coordinator is not None
        self.coordinator.kill()
        self.coordinator.wait()

    def stop_coordinator_for(self, seconds: float) -> None:
        assert self.coordinator is not None
        self.coordinator.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.coordinator.send_signal(signal.SIGCONT)

    # --- looking -----------------------------------------------------------------------------------------------------

    def starts(self, slot: int, local_rank: int = 0) -> list[dict[str, Any]]:
        return self.nodes[slot].starts(local_rank)

    def events(self, slot: int, event: str, local_rank: int = 0) -> list[dict[str, Any]]:
        path = self.nodes[slot].work / f"{event}-{local_rank}"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def workers(self, slot: int) -> list[int]:
        pids = [start["pid"] for rank in range(16) for start in self.starts(slot, rank)[-1:]]
        return [pid for pid in pids if is_alive(pid)]

    def formed_at(
        self, slots: Sequence[int], *, world: int, after: float = 0.0, processes: int = 1, event: str = "starts"
    ) -> float | None:
        """Return when the last worker of a round with `world` ranks began on these nodes, None before.

        `event` may be "trained", for the end of their first step.
        """
        times = []
        for slot in slots:
            for rank in range(processes):
                fitting = [
                    start["at"]
                    for start in self.events(slot, event, rank)
                    if start["at"] > after and int(start["WORLD_SIZE"]) == world
                ]
                if not fitting:
                    return None
                times.append(fitting[0])
        return max(times)

    def wait_formed(
        self, *slots: int, after: float = 0.0, processes: int = 1, within_s: float = 90.0, event: str = "starts"
    ) -> float:
        """Wait until a round of exactly these nodes has started all its workers; return when it had."""
        world = len(slots) * processes
        found: float = wait_for(
            lambda: self.formed_at(slots, world=world, after=after, processes=processes, event=event),
            within_s=within_s,
            what=f"a round of nodes {slots}; {self.told()}",
        )
        return found

    def told(self) -> str:
        log = self.folder / "coordinator.log"
        return log.read_text()[-3000:] if log.exists() else ""

    def rounds(self) -> int:
        """How many rounds all coordinators together have started."""
        return (self.folder / "coordinator.log").read_text().count(" starts with ")

    def steps(self) -> list[int]:
        path = self.store / "steps"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_steps(self, more: int = 3) -> None:
        """Wait until some more steps are done."""
        before = len(self.steps())
        wait_for(lambda: len(self.steps()) >= before + more, what="more steps")

    def lost_steps(self) -> int:
        """Steps that were done more than once."""
        done = self.steps()
        return len(done) - len(set(done))

    def progress(self) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            url = f"http://127.0.0.1:{self.ports['progress_port']}/progress"
            with urllib.request.urlopen(url, timeout=5) as answer:
                content: dict[str, Any] = json.load(answer)
                return content

        return self.network.inside_hub(read) if self.network else read()

    def codes(self, *slots: int, within_s: float = 90.0) -> list[int]:
        """Return the exit codes of launchers."""
        return [self.nodes[slot].wait(within_s) for slot in slots or sorted(self.nodes)]

    def restart(self) -> None:
        """Kill everything and begin anew in fresh folders."""
        self.close()
        old = self.folder
        fresh = Group(Path(tempfile.mkdtemp(dir=old)), self.network)
        self.__dict__.update(fresh.__dict__)

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def need_faketime(libraries: Path = Path("/usr/lib")) -> Path:
    """Return the library that shifts a process's clock; without it fail in CI, and skip elsewhere."""
    found = next(libraries.glob("*/faketime/libfaketime.so.1"), None)
    if found is None:
        need_tool("libfaketime.so.1 is missing, which shifts a node's clock: apt-get install libfaketime")
    return found


def medians_within(
    bounds: dict[str, float],
    measure: Callable[[], dict[str, list[float]]],
    *,
    again: Callable[[], None] = lambda: None,
) -> None:
    """Assert that the median of each named series is within its bound, measuring once more on a busy machine.

    `again` is called before the second measurement.
    """
    for attempt in (1, 2):
        if attempt == 2:
            again()
        found = measure()
        medians = {name: statistics.median(values) for name, values in found.items()}
        for name, values in found.items():
            shown = ", ".join(f"{value:.2f}" for value in values)
            print(f"{name}: median {medians[name]:.2f} s of n = {len(values)} ({shown}), bound {bounds[name]:g} s")
        if attempt == 2 or all(medians[name] <= bounds[name] for name in bounds):
            break
    assert {} == {name: median for name, median in medians.items() if median > bounds[name]}
