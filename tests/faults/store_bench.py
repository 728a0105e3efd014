"""Places where runs are stored, a folder or a bucket of a real S3 server, and processes that save there."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports import free_port
from s3_server import S3Server

from sam3ft_api.training import StorageConfig
from sam3ft_api.worker import ENV_STORAGE_PROFILES
from sam3ft_trainer.store.access import Access, run_access
from sam3ft_trainer.store.history import History
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.uri import open_store

WORKER = Path(__file__).with_name("store_worker.py")


class Nursery:
    """Starts workers by forking a process that has imported everything already."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, job: dict[str, Any]) -> int:
        """Return the pid of a worker."""
        return int(self._ask({"start": job}))

    def reap(self, pid: int) -> int:
        """Wait for a worker and return its exit code, -9 if it was killed."""
        return int(self._ask({"reap": pid}))

    def run(self, job: dict[str, Any]) -> int:
        """Start a worker and wait for it."""
        return self.reap(self.start(job))

    def close(self) -> None:
        """End the nursery and every worker it still has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@dataclass
class Site:
    """One run's place.

    Attributes:
        address: as `checkpoint.uri`.
        root: where its objects lie on this machine, to harm them behind the store's back.
        said: file to which workers write their words.
        environ: what workers need in their environment.
    """

    address: str
    root: Path
    said: Path
    environ: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    def job(self, **more: Any) -> dict[str, Any]:
        """Return a job of one rank; keywords change it."""
        return {
            "address": self.address,
            "said": str(self.said),
            "environ": self.environ,
            "rank": 0,
            "world_size": 1,
            "steps": 6,
            "megabytes": 1,
        } | more

    def jobs(self, world_size: int, **more: Any) -> list[dict[str, Any]]:
        """Return the jobs of a group."""
        port = free_port() if world_size > 1 else 0
        return [self.job(rank=rank, world_size=world_size, port=port, **more) for rank in range(world_size)]

    def words(self, word: str) -> list[Any]:
        """Return everything that workers said under a word, in order."""
        lines = self.said.read_text().splitlines() if self.said.exists() else []
        return [line[word] for line in map(json.loads, lines) if word in line]

    def store(self) -> Store:
        """Open the place in this process."""
        return open_store(self.address, create=True, access=self.access())

    def access(self) -> Access:
        """Return how the place is reached."""
        return run_access(StorageConfig(), self.environ)

    def history(self) -> History:
        """Return the log; raises if an entry is torn, missing or out of its chain."""
        return CommitLog(self.store()).read()

    def look(self) -> None:
        """Take note of all objects, and compare those that were there before: nothing is ever overwritten."""
        now = {info.key: (info.etag, info.modified_unix_s) for info in self.store().list_objects("")}
        changed = [key for key, mark in now.items() if self._seen.get(key, mark) != mark]
        assert [] == changed, "objects were written a second time"
        self._seen |= now

    def path(self, key: str) -> Path:
        """Return where an object lies on this machine."""
        return self.root / key


def folder_site(folder: Path) -> Site:
    """Return a place in a folder."""
    return Site(str(folder / "run"), folder / "run", folder / "said.jsonl")


def s3_site(server: S3Server, bucket: str, folder: Path, *, name: str = "run", endpoint: str | None = None) -> Site:
    """Return a place in a bucket, reached through the server or a proxy at `endpoint`."""
    folder.mkdir(parents=True, exist_ok=True)
    profiles = server.profiles_file(folder / "storage.yaml", endpoint=endpoint)
    return Site(
        f"s3://{bucket}/runs/{name}",
        server.folder / bucket / "runs" / name,
        folder / f"said-{name}.jsonl",
        server.environment() | {ENV_STORAGE_PROFILES: str(profiles)},
    )


def harm(path: Path, how: str, *, draw: random.Random | None = None) -> None:
    """Flip a bit, truncate or delete a file; what a store remembers about it stays."""
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
        return
    if how == "truncate":
        os.truncate(path, len(data) // 2)
        return
    at = len(data) - 1 if draw is None else draw.randrange(len(data))
    with path.open("r+b") as file:  # in place: a new file would lose the marks of the server
        file.seek(at)
        file.write(bytes([data[at] ^ 0x80]))


def wait_until(condition: Callable[[], Any], *, timeout_s: float = 60.0) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
