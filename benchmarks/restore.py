"""Seconds of a verified restore from a real S3 server: alone, from the node's copy, and shared by two processes.

    python -m benchmarks.restore [--gib 0.5] [--rounds 3] [--connection-mb-per-s 60]

Two processes have saved a state of this size into a bucket of versitygw. In turn within a round: one restores it from
the bucket; one from the copy on the node (in the page cache, as after a restart of the workers); two processes of
which each reads everything; two that read half each and hand it over on gloo. Every restored state is compared with the
saved one. With a bound, answers come through a proxy that lets each connection have so much, as a store far away does.
Bytes are those asked of the server. Figures are medians; the last line is JSON.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.upload import BUCKET, real_server, state_of
from obstore.store import S3Store

from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.run.group import Group, join_group
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import Exchange, LocalExchange, TorchExchange
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta, RunFacts

ROOT = Path(__file__).parents[1]
MODES = {"bucket": 1, "copy": 1, "two read all": 2, "two share": 2}
"""Processes of each way."""


class Counting(Store):
    """Counts the bytes that are read."""

    read_bytes = 0
    _lock = threading.Lock()

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        """As `Store.get_range`, counted."""
        with self._lock:
            self.read_bytes += length
        return super().get_range(key, start, length)


def main() -> None:
    """Save once, restore in every way, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connection-mb-per-s", type=float, default=None)
    parser.add_argument("--worker", default="")
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    core = max(os.sched_getaffinity(0))
    with (
        real_server(core) as server,
        line_to(server.endpoint, arguments.connection_mb_per_s) as endpoint,
        tempfile.TemporaryDirectory() as folder,
    ):
        job = {"endpoint": endpoint, "key": server.access_key, "secret": server.secret_key, "gib": arguments.gib}
        job["cache"] = folder
        run_workers(job | {"mode": "save"}, 2)
        rows = [
            {mode: run_workers(job | {"mode": mode}, MODES[mode]) for mode in MODES} for _ in range(arguments.rounds)
        ]
    figures = {}
    for mode in MODES:
        seconds = round(median(row[mode]["seconds"] for row in rows), 2)
        figures[mode] = {"seconds": seconds, "read_mb": round(rows[0][mode]["read_bytes"] / 1e6)}
        print(f"{mode:14s} {seconds:6.2f} s   {figures[mode]['read_mb']:6d} MB asked of the server")
    print(json.dumps({"gib": arguments.gib, "rounds": arguments.rounds, **figures}))


@contextmanager
def line_to(endpoint: str, connection_mb_per_s: float | None) -> Iterator[str]:
    """Give the address of a proxy with that bound on answers; the server's own without a bound."""
    if connection_mb_per_s is None:
        yield endpoint
        return
    sys.path.insert(0, str(ROOT / "tests" / "harness"))
    from sam3ft_faults.proxy import FaultProxy  # noqa: PLC0415 - lies with the tests
    from sam3ft_faults.rules import Rule  # noqa: PLC0415

    with FaultProxy(endpoint) as proxy:
        proxy.rules(Rule(methods=("GET",), path="/ckpt/", bytes_per_s=connection_mb_per_s * 1e6))
        yield proxy.endpoint


def run_workers(job: dict[str, Any], world_size: int) -> dict[str, Any]:
    """Run a group and return its slowest time and all its bytes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.restore", "--worker", json.dumps(job)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | variables | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world_size)
    ]
    answers = [json.loads(process.communicate()[0]) for process in processes]
    return {
        "seconds": max(answer["seconds"] for answer in answers),
        "read_bytes": sum(answer["read_bytes"] for answer in answers),
    }


def work(job: dict[str, Any]) -> None:
    """Be one process: save, or restore in one way and say how long it took."""
    torch.set_num_threads(1)
    group = join_group(torch.device("cpu"))
    store = Counting(
        S3Store(
            BUCKET,
            prefix="run",
            endpoint=job["endpoint"],
            region="us-east-1",
            access_key_id=job["key"],
            secret_access_key=job["secret"],
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": "300s"},
        ),
        address=f"s3://{BUCKET}/run",
    )
    state = state_of(int(job["gib"] * (1 << 30)))
    run = opened(store, group, cache=Path(job["cache"]) if job["mode"] in {"save", "copy"} else None)
    if job["mode"] == "save":
        run.save(state, CommitMeta(step=1), wait=True)
        run.close(timeout_s=600)
        group.barrier()
        print(json.dumps({"seconds": 0.0, "read_bytes": 0}))
        return
    targets = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    group.barrier()
    started = time.perf_counter()
    run.restore(targets, broadcast=group.broadcast_tensor if job["mode"] == "two share" else None)
    seconds = time.perf_counter() - started
    if any(not torch.equal(tensor, targets[name]) for name, tensor in state.items()):
        raise RuntimeError("another state was restored than was saved")
    group.barrier()
    group.close()
    print(json.dumps({"seconds": seconds, "read_bytes": store.read_bytes}))


def opened(store: Store, group: Group, *, cache: Path | None) -> RunStore:
    """Claim the run."""
    exchange: Exchange = LocalExchange()
    if group.world_size > 1:
        exchange = TorchExchange(dist.distributed_c10d._get_default_store())  # noqa: SLF001 - torch has no public name
    return open_run_store(
        CheckpointConfig(uri=f"s3://{BUCKET}/run"),
        IdentityConfig(),
        RunFacts(task="detection", numbers_digest="n", dataset_digest="d", model_digest="m"),
        rank=group.rank,
        world_size=group.world_size,
        exchange=exchange,
        options=StoreOptions(outage_s=60.0, cache_dir=cache),
        store=store,
    )


if __name__ == "__main__":
    main()
