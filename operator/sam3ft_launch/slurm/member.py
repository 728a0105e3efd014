"""`python -m sam3ft_launch.slurm.member`: on each node, find the coordinator, run the launcher, end with its code.

A signal of SLURM's reaches every process of a step, so the launcher has it already, and it is not handed on. A request
to stop lies in the run folder: it is handed on as a signal, and the launcher killed when the time it grants is over.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import StopRequest, read_stop_request
from sam3ft_launch.local.process import shell_code, tether
from sam3ft_launch.slurm.arguments import num_nodes, parser_of

FOUND_WITHIN_S = 120.0
"""A shared file system may show a new file to other nodes only after a minute."""
_POLL_S = 0.1
_LOOK_EVERY_S = 1.0
_LAUNCHERS = 4
"""On one node, in one turn of the job."""
_AGAIN_S = 1.0
_MOVE_WITHIN_S = 15.0
"""For a launcher whose coordinator is gone: it cannot save without the others."""
_ASKS = (signal.SIGTERM, signal.SIGUSR2)


def main(argv: list[str] | None = None) -> int:
    """Run the launcher and return its exit code; 23 when there is no coordinator."""
    parser = parser_of("sam3ft_launch.slurm.member", "Find the coordinator, then run the launcher of this node.")
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--slot", type=int, help="place of this node; default: its number in the job")
    parser.add_argument("command", nargs="+", help="the launcher's, without what only the node knows")
    given = parser.parse_args(argv)
    meeting = find_coordinator(given.port_file, within_s=FOUND_WITHIN_S)
    if meeting is None:
        print(f"no coordinator in {given.port_file} within {FOUND_WITHIN_S:g} s", file=sys.stderr)
        return int(ExitCode.PEER_LOST)
    host, port = meeting
    slot = given.slot if given.slot is not None else int(os.environ.get("SLURM_NODEID", "0"))
    folder = given.run_dir
    work = folder.node_work(slot)
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    word = folder.node_last_word(slot)
    word.unlink(missing_ok=True)
    shown = f"[{host}]" if ":" in host else host
    command = [
        *given.command,
        *("--config", str(folder.config), "--work-dir", str(work), "--termination-log", str(word)),
        *("--coordinator", f"{shown}:{port}", "--address", own_address(host, port)),
        *("--node", f"node-{slot}", "--slot", str(slot), "--attempt", str(given.attempt)),
    ]
    if given.slot is not None:
        return run_launcher(command, folder, attempt=given.attempt, meeting=given.port_file)
    return run_again(command, folder, word=word, attempt=given.attempt)


def run_again(command: Sequence[str], folder: RunDir, *, word: Path, attempt: int) -> int:
    """Run the launcher, and again when it was killed, so that the other nodes do not go on without this one.

    On one node alone that is the verdict's to say.
    """
    several = num_nodes() > 1
    for left in reversed(range(_LAUNCHERS)):
        code = run_launcher(command, folder, attempt=attempt)
        was_killed = code == ExitCode.KILLED and not word.exists()
        if not (several and was_killed and left) or _request(folder, attempt) is not None:
            return code
        print(f"the launcher was killed; starting it again ({left} times more)", file=sys.stderr, flush=True)
        time.sleep(_AGAIN_S)
    raise AssertionError("unreachable")


def run_launcher(command: Sequence[str], folder: RunDir, *, attempt: int, meeting: Path | None = None) -> int:
    """Run a launcher and return its exit code as a shell shows it; call from the main thread.

    Args:
        command: the launcher's.
        folder: of the run.
        attempt: its number.
        meeting: the coordinator's file, in another job than this one: when it goes, or another takes its place, so has
            the coordinator, to which a launcher would look for ever. Then the launcher is ended, and 23 returned.
    """
    signalled: list[int] = []
    for number in _ASKS:
        signal.signal(number, lambda received, _frame: signalled.append(received))
    launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=tether())  # noqa: PLW1509 - one thread
    kill_at_s, look_at_s, has_moved = math.inf, 0.0, False
    while (code := launcher.poll()) is None:
        if kill_at_s == math.inf and time.monotonic() >= look_at_s:
            look_at_s = time.monotonic() + _LOOK_EVERY_S
            if (request := _request(folder, attempt)) is not None:
                kill_at_s = time.monotonic() + request.grace_s
                if not signalled:  # a second signal would end the workers at once
                    launcher.terminate()
            elif meeting is not None and not signalled and not is_newest(meeting):
                print("the coordinator has moved; leaving the group", file=sys.stderr, flush=True)
                kill_at_s, has_moved = time.monotonic() + _MOVE_WITHIN_S, True
                launcher.terminate()
        if time.monotonic() >= kill_at_s:
            print("the time to save is over; killing the launcher", file=sys.stderr, flush=True)
            launcher.kill()
            code = launcher.wait()
            break
        time.sleep(_POLL_S)
    return int(ExitCode.PEER_LOST) if has_moved and not signalled else shell_code(code)


def is_newest(meeting: Path) -> bool:
    """Tell whether a coordinator's file is there, and no later one."""
    found: dict[Path, float] = {}
    for path in meeting.parent.glob("coordinator-*.json"):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime
    return meeting in found and found[meeting] == max(found.values())


def _request(folder: RunDir, attempt: int) -> StopRequest | None:
    os.scandir(folder.root).close()  # has a network file system look for new names
    return read_stop_request(folder.stop_request, attempt=attempt)


def find_coordinator(path: Path, *, within_s: float) -> tuple[str, int] | None:
    """Return host and port from the coordinator's file, None when it does not come in time."""
    give_up_s = time.monotonic() + within_s
    while True:
        try:
            found = json.loads(path.read_bytes())
            return str(found["host"]), int(found["port"])
        except FileNotFoundError:
            if time.monotonic() > give_up_s:
                return None
            os.scandir(path.parent).close()  # has a network file system look for new names
            time.sleep(_POLL_S)


def own_address(host: str, port: int) -> str:
    """Return the address of this node from which it reaches the coordinator; nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    sys.exit(main())
