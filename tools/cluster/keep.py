"""Keep a control plane running in the background, for trying things out by hand.

tools/cluster/cluster up [--nodes 4]       start it and print its kubeconfig; nothing happens when it runs
tools/cluster/cluster up --kubelets 2      the same with real nodes, as root: kubelets, containers, name server, stores
tools/cluster/cluster status               say whether it runs
tools/cluster/cluster down                 end it and remove its data, also what a killed keeper has left
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "components"))

from control_plane import ControlPlane
from definitions import apply_crds
from machine import sweep
from real_nodes import ARGUMENTS, RealNodes

from components import ComponentMissing

START_S = 120.0
STOP_S = 30.0


def state_folder() -> Path:
    """Return where the control plane keeps its files: `sam3ft/cluster` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "sam3ft" / "cluster"


def running_pid(folder: Path) -> int | None:
    """Return the process that keeps the control plane; None when none does."""
    try:
        pid = int((folder / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if any(part.endswith(b"keep.py") for part in command) else None


def up(folder: Path, *, nodes: int, kubelets: int) -> int:
    """Start a keeper in the background and wait until it is ready; returns the exit status."""
    if running_pid(folder) is None:
        _remove(folder)
        folder.mkdir(parents=True, mode=0o700)
        with (folder / "keeper.log").open("wb") as log:
            command = [sys.executable, str(Path(__file__).resolve()), "keep", "--nodes", str(nodes)]
            command += ["--kubelets", str(kubelets)]
            keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (folder / "pid").write_text(str(keeper.pid))
        give_up_at = time.monotonic() + START_S
        while not (folder / "ready").exists():
            if keeper.poll() is not None or time.monotonic() > give_up_at:
                print((folder / "keeper.log").read_text(), file=sys.stderr)
                print(f"cluster: it did not start; its logs are in {folder}", file=sys.stderr)
                return 1
            time.sleep(0.2)
    print(f"export KUBECONFIG={folder / 'admin.kubeconfig'}")
    return 0


def down(folder: Path) -> int:
    """End the keeper and remove its files; returns the exit status."""
    pid = running_pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        give_up_at = time.monotonic() + STOP_S
        while running_pid(folder) is not None and time.monotonic() < give_up_at:
            time.sleep(0.1)
    _remove(folder)
    print("cluster: down")
    return 0


def _remove(folder: Path) -> None:
    if os.geteuid() == 0 and shutil.which("ip"):  # others had no real nodes
        sweep(folder)
    shutil.rmtree(folder, ignore_errors=True)


def keep(folder: Path, *, nodes: int, kubelets: int) -> int:
    """Run the control plane until SIGTERM; returns the exit status."""
    try:
        with ExitStack() as parts:
            arguments = ARGUMENTS if kubelets else {}
            plane = parts.enter_context(ControlPlane(folder, definitions=apply_crds, arguments=arguments))
            if nodes:
                plane.start_kwok(nodes=nodes)
            if kubelets:
                real = RealNodes(folder, count=kubelets)
                parts.enter_context(real.of(plane))
                about = {"registry": real.registry, "s3": real.s3_endpoint, "s3Keys": real.s3_keys}
                (folder / "nodes.json").touch(mode=0o600)
                (folder / "nodes.json").write_text(json.dumps(about, indent=1))
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            (folder / "ready").touch()
            signal.pause()
    except (ComponentMissing, RuntimeError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "down", "status", "keep"))
    parser.add_argument("--nodes", type=int, help="nodes that kwok plays; 4, or 0 beside real ones")
    parser.add_argument("--kubelets", type=int, default=0, metavar="N", help="real nodes; needs root, see the docs")
    options = parser.parse_args(arguments)
    folder = state_folder()
    nodes = options.nodes if options.nodes is not None else (0 if options.kubelets else 4)
    if options.action == "up":
        return up(folder, nodes=nodes, kubelets=options.kubelets)
    if options.action == "down":
        return down(folder)
    if options.action == "keep":
        return keep(folder, nodes=nodes, kubelets=options.kubelets)
    pid = running_pid(folder)
    print("cluster: down" if pid is None else f"cluster: up (pid {pid}); KUBECONFIG={folder / 'admin.kubeconfig'}")
    if pid is not None and (folder / "nodes.json").exists():
        print((folder / "nodes.json").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
