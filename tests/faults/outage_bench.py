"""A run whose data and checkpoints lie in a bucket, behind the fault proxy."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fault_bench import ATTEMPT_TIMEOUT_S, Bench, Ended, kill_whole_run, state_hashes
from s3_server import S3Server

from sam3ft_api.training import StorageConfig
from sam3ft_api.worker import ENV_CACHE_DIR, ENV_CREDENTIALS_DIR, ENV_STORAGE_PROFILES
from sam3ft_faults.proxy import FaultProxy
from sam3ft_trainer.store.access import run_access

QUICK_CLIENT = {"connectTimeoutSeconds": 1, "requestTimeoutSeconds": 4, "retries": 1}
"""Settings of the profile with which a stall or a refusal is noticed in seconds; the defaults take minutes."""


@dataclass
class OutageBench:
    """A bench in a bucket.

    Attributes:
        bench: of the run.
        server: the real one.
        proxy: in front of it.
        environment: of the command.
    """

    bench: Bench
    server: S3Server
    proxy: FaultProxy
    environment: dict[str, str]

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        """Start the run."""
        return self.bench.start(name, self.environment)

    def run(self, name: str) -> Ended:
        """Run to the end."""
        return self.bench.run(name, self.environment)

    def finish(self, name: str, process: "subprocess.Popen[bytes]") -> Ended:
        """Wait for the end of a run that was started."""
        try:
            output, _ = process.communicate(timeout=ATTEMPT_TIMEOUT_S)
        except BaseException:  # as in Bench.run
            kill_whole_run(process)
            raise
        return Ended(process.returncode, output.decode(errors="replace"), self.bench.folder / name)

    def run_struck(
        self, name: str, strike: Callable[[], Any], *, after_step: int = 2, event: str = "train_interval"
    ) -> Ended:
        """Run to the end, and call `strike` once the run has told an event of a step."""
        process = self.start(name)
        try:
            self.wait_for(process, name, event, step=after_step)
            strike()
            return self.finish(name, process)
        finally:
            kill_whole_run(process)

    def wait_for(self, process: "subprocess.Popen[bytes]", name: str, event: str, *, step: int) -> None:
        """Wait until the run has told an event of a step or a later one."""
        deadline = time.monotonic() + ATTEMPT_TIMEOUT_S
        while not any(found["step"] >= step for found in self.events(name, event)):
            assert process.poll() is None, process.communicate()[0].decode()[-4000:]
            assert time.monotonic() < deadline, f"no {event} of step {step}"
            time.sleep(0.02)

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        """The events of a kind that a run has told so far."""
        path = self.bench.folder / name / "work/events.jsonl"
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["event"] == event]

    def state(self, name: str, step: int) -> dict[str, str]:
        """The hashes of what was committed at a step, read past the proxy."""
        straight = self.server.profiles_file(self.bench.folder / "straight.yaml")
        environ = self.server.environment() | {ENV_STORAGE_PROFILES: str(straight)}
        address = self.bench.checkpoint.format(name=name)
        return state_hashes(address, step, access=run_access(StorageConfig(), environ))


@contextmanager
def outage_bench(
    server: S3Server, bucket: str, bench: Bench, *, client: dict[str, Any] | None = None, seed: int = 0
) -> Iterator[OutageBench]:
    """A copy of `bench` whose data, the same files, and checkpoints are in `bucket`, behind a proxy.

    Args:
        server: runs.
        bucket: exists.
        bench: its data is a folder.
        client: further settings of the storage profile, by the names of its file.
        seed: of the proxy.
    """
    server.upload_folder(bucket, "data", Path(bench.data))
    moved = replace(bench, data=f"s3://{bucket}/data", checkpoint=f"s3://{bucket}/runs/{{name}}")
    with FaultProxy(server.endpoint, seed=seed) as proxy:
        profiles = server.profiles_file(bench.folder / "storage.yaml", endpoint=proxy.endpoint)
        more = "".join(f"    {name}: {value}\n" for name, value in (client or {}).items())
        profiles.write_text(profiles.read_text() + more)
        # Nothing is cached: every epoch asks the store again.
        variables = server.environment() | {ENV_STORAGE_PROFILES: str(profiles), ENV_CACHE_DIR: ""}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        yield OutageBench(moved, server, proxy, clean | variables)


def credentials_folder(folder: Path, access_key: str, secret_key: str) -> Path:
    """Write, or replace, a mounted Secret and return it."""
    folder.mkdir(exist_ok=True)
    for name, value in {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
    }.items():
        part = folder / f".{name}"
        part.write_text(value)
        part.replace(folder / name)
    return folder


def with_folder(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """Return an environment that names a folder of credentials and holds none itself."""
    clean = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    return clean | {ENV_CREDENTIALS_DIR: str(folder)}


def places_of(secrets: tuple[str, ...], *folders: Path, texts: tuple[str, ...] = ()) -> list[str]:
    """Where any secret stands: the paths of files below the folders, or `text N`."""
    needles = [secret.encode() for secret in secrets]
    found = [
        str(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]
    return found + [f"text {n}" for n, text in enumerate(texts) if any(secret in text for secret in secrets)]
