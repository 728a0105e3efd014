"""A save's upload beside what bare obstore and boto3 reach in the same run: speed, memory, a busy trainer, the stall.

    python -m benchmarks.upload [--gib 1] [--rounds 3]

Two servers, each on one core: a sink that throws bodies away (the client is the limit), and a real S3 server (versitygw
on this disk, which is then the limit). For each, and in turn within a round: `obstore.put` of memory that is ready,
with the pieces of the store (before and after the saves; `of_bare` is against their mean) and with its own defaults; a
whole save through `RunStore`, hash, check and commit included; the same while the main thread runs pure Python; boto3's
`upload_fileobj` in a thread, idle and busy. `cpu` is CPU seconds of the client for a gigabyte, `copy_s` the time for
which the training stands still. Memory is the highest beyond what was there before the first save, against this rank's
share. Figures are medians of rounds; ratios are medians of ratios within a round, so that other work on the machine
counts little. The last line is JSON; the end is 1 when a target is missed.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import obstore
import torch
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from obstore.store import S3Store
from torch import Tensor

from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.objects import PART_BYTES, Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta, RunFacts

ROOT = Path(__file__).parents[1]
BUCKET, REGION = "bench", "us-east-1"
TARGETS = {"of_bare": 0.8, "memory": 1.1, "slower_when_busy": 0.4, "stall": 0.01}
INTERVAL_S = 600.0
"""`checkpoint.every_seconds` as it is by default."""
STATE_GB = 13.6
"""Model, moments and averages of SAM 3 in float32."""


@dataclass(frozen=True)
class Server:
    """A server under test."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str

    def store(self) -> S3Store:
        """Return obstore's client of it."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": "300s"},
        )

    def boto(self) -> Any:
        """Return boto3's client of it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )


def main() -> int:
    """Run the rounds and print the figures; returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    tensors = state_of(int(arguments.gib * (1 << 30)))
    figures: dict[str, Any] = {"gib": arguments.gib, "rounds": arguments.rounds}
    for opened in (sink(cores[-1]), real_server(cores[-1])):
        with opened as server:
            figures[server.name] = measure(server, tensors, rounds=arguments.rounds)
    missed = [
        f"{name} {what}"
        for name in ("sink", "versitygw")
        for what, target in TARGETS.items()
        if (figures[name][what] < target if what == "of_bare" else figures[name][what] > target)
    ]
    print(json.dumps(figures | {"targets": TARGETS, "missed": missed}))
    return 1 if missed else 0


def state_of(num_bytes: int) -> dict[str, Tensor]:
    """Return tensors of a model, its moments and averages, of a few sizes."""
    groups = ("model", "optimizer", "optimizer2", "ema")
    per_tensor = num_bytes // len(groups) // 8 // 4
    generator = torch.Generator().manual_seed(0)
    return {f"{group}/t{n}": torch.rand(per_tensor, generator=generator) for group in groups for n in range(8)}


def measure(server: Server, tensors: dict[str, Tensor], *, rounds: int) -> dict[str, Any]:
    """Return the figures of one server."""
    reset_peak()
    before = peak_bytes()
    run = open_bench_run(server)
    first_copy_s = save(run, tensors, step=1).copy_s
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    save(run, tensors, step=2)
    memory = (peak_bytes() - before) / num_bytes
    payload = run._saver.slab._bytes.numpy().data  # noqa: SLF001 - the same memory for all, so that none gains
    rows = []
    for number in range(rounds):
        cpu_s = time.process_time()
        row = {"bare": bare(server, payload, chunk_size=PART_BYTES, max_concurrency=4)}
        row["bare_cpu"] = (time.process_time() - cpu_s) / (len(payload) / 1e9)
        row["bare_defaults"] = bare(server, payload)
        saved = save(run, tensors, step=10 + number)
        row |= {"copy_s": saved.copy_s, "save": saved.mb_per_s, "save_cpu": saved.cpu_s / (len(payload) / 1e9)}
        row["save_busy"] = save(run, tensors, step=20 + number, busy=True).mb_per_s
        row["again"] = bare(server, payload, chunk_size=PART_BYTES, max_concurrency=4)
        row["boto3"] = boto_upload(server, payload)
        row["boto3_busy"] = boto_upload(server, payload, busy=True)
        rows.append(row)
        print(f"{server.name:10s} " + "  ".join(f"{k} {v:8.2f}" for k, v in row.items()), flush=True)
    run.close()
    middle = {name: round(median(row[name] for row in rows), 3) for name in rows[0]}
    per_byte = middle["copy_s"] / num_bytes
    return middle | {
        "unit": "MB/s",
        "of_bare_cpu": round(median(row["bare_cpu"] / row["save_cpu"] for row in rows), 3),
        "of_bare": round(median(2 * row["save"] / (row["bare"] + row["again"]) for row in rows), 3),
        "slower_when_busy": round(median(1 - row["save_busy"] / row["save"] for row in rows), 3),
        "boto3_slower_when_busy": round(median(1 - row["boto3_busy"] / row["boto3"] for row in rows), 3),
        "memory": round(memory, 3),
        "first_copy_s": round(first_copy_s, 3),
        "stall": round(per_byte * STATE_GB * 1e9 / INTERVAL_S, 5),
    }


def open_bench_run(server: Server) -> RunStore:
    """Claim a fresh address on the server."""
    address = f"run-{uuid.uuid4().hex[:8]}"
    store = Store(
        S3Store(
            BUCKET,
            prefix=address,
            endpoint=server.endpoint,
            region=REGION,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": "300s"},
        ),
        address=f"s3://{BUCKET}/{address}",
    )
    return open_run_store(
        CheckpointConfig(uri=f"s3://{BUCKET}/{address}", keep_last=1, keep_best=0),
        IdentityConfig(),
        RunFacts(task="detection", numbers_digest="n", dataset_digest="d", model_digest="m"),
        rank=0,
        world_size=1,
        exchange=LocalExchange(),
        options=StoreOptions(outage_s=60.0),
        store=store,
    )


@dataclass(frozen=True)
class Saved:
    """One save: MB/s and CPU seconds from the end of the copy to the commit, and the seconds of the copy."""

    mb_per_s: float
    cpu_s: float
    copy_s: float


def save(run: RunStore, tensors: dict[str, Tensor], *, step: int, busy: bool = False) -> Saved:
    """Save, and wait for the commit; the clean-up of the save before is over when it begins."""
    run.close()
    started = time.perf_counter()
    ticket = run.save(tensors, CommitMeta(step=step))
    copied, cpu_s = time.perf_counter(), time.process_time()
    if busy:
        while_busy(lambda: ticket.done)
    if ticket.wait().state != "committed":
        raise RuntimeError(f"the save was not committed: {ticket.outcome}")
    seconds = time.perf_counter() - copied
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    return Saved(num_bytes / 1e6 / seconds, time.process_time() - cpu_s, copied - started)


def bare(server: Server, payload: memoryview, **options: int) -> float:
    """Return MB/s of obstore alone."""
    store, key = server.store(), f"bare/{uuid.uuid4().hex}"
    started = time.perf_counter()
    obstore.put(store, key, payload, use_multipart=True, **options)
    seconds = time.perf_counter() - started
    obstore.delete(store, key)
    return len(payload) / 1e6 / seconds


def boto_upload(server: Server, payload: memoryview, *, busy: bool = False) -> float:
    """Return MB/s of boto3 in a thread, with pieces and threads that serve it best."""
    client, key = server.boto(), f"boto/{uuid.uuid4().hex}"
    transfer = TransferConfig(multipart_chunksize=64 << 20, max_concurrency=8)
    thread = threading.Thread(
        target=client.upload_fileobj, args=(io.BytesIO(payload), BUCKET, key), kwargs={"Config": transfer}
    )
    started = time.perf_counter()
    thread.start()
    if busy:
        while_busy(lambda: not thread.is_alive())
    thread.join()
    seconds = time.perf_counter() - started
    client.delete_object(Bucket=BUCKET, Key=key)
    return len(payload) / 1e6 / seconds


def while_busy(done: Callable[[], bool]) -> None:
    """Run pure Python until it is done: the worst neighbour that a trainer can be."""
    total = 0
    while not done():
        for number in range(20_000):
            total += number * number


def reset_peak() -> None:
    """Let the highest memory count from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the most memory held since the last reset."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@contextmanager
def sink(core: int) -> Iterator[Server]:
    """Run the server that throws bodies away."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.s3_sink", str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    with process:  # leaving closes its input, which ends it
        port = int(process.stdout.readline()) if process.stdout is not None else 0
        yield Server("sink", f"http://127.0.0.1:{port}", "key", "secret")


@contextmanager
def real_server(core: int) -> Iterator[Server]:
    """Run versitygw over a temporary folder."""
    sys.path[:0] = [str(ROOT / "tests" / "components"), str(ROOT / "tools" / "components")]
    from s3_server import S3Server  # noqa: PLC0415 - lies with the tests

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "buckets").mkdir()
        with S3Server(Path(folder) / "buckets") as running:
            os.sched_setaffinity(running.pid, {core})
            running.create_bucket(BUCKET)
            yield Server("versitygw", running.endpoint, running.access_key, running.secret_key)


if __name__ == "__main__":
    sys.exit(main())
