"""A worker for tests of membership: steps in lock-step with its peers, commits and resumes; without torch.

    python -I -S member_worker.py STORE [--steps N] [--every N] [--step-s S] [--linger RANK:S]

Each step is one exchange over a socket to rank 0, so a peer that dies ends everybody with 23 and a silent one makes
everybody hang, as with gloo. Rank 0 appends each step to STORE/steps and writes each commit to STORE/commit. A file
STORE/fail-RANK holds the code with which that rank ends.
"""

import argparse
import json
import os
import select
import socket
import sys
import time
from pathlib import Path

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
WORK = Path(os.environ["SAM3FT_WORK_DIR"])
FLAG = Path(os.environ["SAM3FT_FLAG_FILE"])
RESULT = Path(os.environ["SAM3FT_RESULT_FILE"])
MASTER = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
EVICT, REGROUP, FAILED = 1, 2, 4


def pause(seconds: float) -> None:
    """Sleep; `time.sleep` fails below libfaketime 0.9.10, with which clocks are shifted."""
    select.select([], [], [], seconds)


class PeerLost(Exception):
    """A connection to a peer has ended."""


class Exchange:
    """Every rank gives some bits and gets the union of everybody's."""

    def __init__(self) -> None:
        self.peers: list[socket.socket] = []
        if RANK == 0:
            with socket.create_server(MASTER, backlog=WORLD) as server:
                self.peers = [server.accept()[0] for _ in range(WORLD - 1)]
        else:
            self.peers = [self.connect()]
        for peer in self.peers:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect(self) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(MASTER)
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                pause(0.02)

    def union(self, bits: int) -> int:
        try:
            if RANK != 0:
                self.peers[0].sendall(bytes([bits]))
                return self.read(self.peers[0])
            for peer in self.peers:
                bits |= self.read(peer)
            for peer in self.peers:
                peer.sendall(bytes([bits]))
        except OSError as error:
            raise PeerLost(str(error)) from error
        return bits

    def read(self, peer: socket.socket) -> int:
        data = peer.recv(1)
        if not data:
            raise PeerLost("the connection has ended")
        return data[0]


def replace(path: Path, content: dict) -> None:
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def finish(code: int, message: str, step: int, commit_step: int | None) -> None:
    word = {"code": code, "rank": RANK, "message": message, "step": step, "checkpoint_step": commit_step}
    replace(RESULT, word)
    os._exit(code)


def note(event: str, step: int) -> None:
    """Append to `starts-LOCAL_RANK` or `trained-LOCAL_RANK` when this process began, or had done its first step."""
    with (WORK / f"{event}-{os.environ['LOCAL_RANK']}").open("a") as starts:
        start = {"pid": os.getpid(), "at": time.monotonic(), "unix": time.time(), "step": step}
        start |= {"RANK": str(RANK), "WORLD_SIZE": str(WORLD)}
        starts.write(json.dumps(start) + "\n")


def own_bits(store: Path) -> int:
    bits = FAILED if (store / f"fail-{RANK}").exists() else 0
    if FLAG.exists():
        bits |= EVICT if json.loads(FLAG.read_text())["kind"] == "evict" else REGROUP
    return bits


def train(store: Path, join: type[Exchange], *, steps: int, every: int, step_s: float) -> int:
    """Return the last step; every other end leaves the process."""
    commit = store / "commit"
    step = committed = int(commit.read_text()) if commit.exists() else 0
    note("starts", step)
    exchange = join()
    first = step + 1
    while step < steps:
        pause(step_s)
        own = own_bits(store)
        if own & FAILED:
            code = int((store / f"fail-{RANK}").read_text())
            finish(code, f"told to end with {code}", step, committed)
        union = exchange.union(own)
        step += 1
        if step == first:
            note("trained", step)
            if path := os.environ.get("SAM3FT_TRAINING_FILE"):  # not below torchrun
                Path(path).touch()
        if RANK == 0:
            with (store / "steps").open("a") as log:
                log.write(f"{step}\n")
        if step % every == 0 or step == steps or union:
            if RANK == 0:
                temporary = commit.with_name("commit.tmp")
                temporary.write_text(str(step))
                temporary.replace(commit)
                replace(WORK / "progress.json", {"state": "training", "step": step, "checkpoint_step": step})
            exchange.union(0)
            committed = step
        if union:
            finish(20 if own & EVICT else 26, "saved", step, committed)
    return step


def main(join: type[Exchange] = Exchange) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--linger", default="0:0")
    arguments = parser.parse_args()
    try:
        step = train(arguments.store, join, steps=arguments.steps, every=arguments.every, step_s=arguments.step_s)
    except PeerLost as error:
        finish(23, f"a peer is lost: {error}", 0, None)
    rank, _, seconds = arguments.linger.partition(":")
    if int(rank) == RANK:
        pause(float(seconds))
    finish(0, "", step, step)


if __name__ == "__main__":
    sys.exit(main())
