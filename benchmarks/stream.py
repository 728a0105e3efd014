"""Images per second and core of the training loader from a real S3 server far away, beside a DataLoader with boto3.

    python -m benchmarks.stream [--images 240] [--rounds 3] [--latency-ms 30]

An S3 server (versitygw) and a proxy that lets every request wait run on one core; everything that is measured runs on
the other one. 1920x1080 JPEGs become 1008 px: fetched, decoded, resized, padded, with boxes, in batches of four. No
cache: every image is fetched. The rivals decode with the same function, which favours them, and differ in how they
fetch: torch's DataLoader with boto3 and 2 or 8 workers, and litData's StreamingRawDataset with 0 or 2 workers where
that package is installed (no dependency: `pip install litdata` into an environment of its own).

images/s/core is by CPU seconds of the client and of its workers, so that other work on the machine counts little;
images/s is by the clock. The start of the rivals' workers is not counted. Waits: the share of a step of 200 ms in which
its consumer, who only sleeps, waits for eight images. Rounds alternate; figures are medians. The last line is JSON.
Linux, two cores at least.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import psutil
import torch
from benchmarks.loader import SIDE, TARGET, bench_config, write_dataset
from benchmarks.rivals import lit_batches, warmed
from botocore.config import Config
from torch import Tensor
from torch.utils.data import Dataset

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.pipeline import TrainLoader
from sam3ft_trainer.data.sample import train_sample

ROOT = Path(__file__).parents[1]
BUCKET, PREFIX = "bench", "set"
BATCH = 4
DISTINCT = 40
"""Pictures that differ; making one takes longer than reading twenty."""
STEP_S, STEP_IMAGES = 0.2, 8
TARGET_WAITS = 0.02
_APART: set[int] = set()
"""Processes on the other core."""
Batches = Callable[[int], Iterable[Any]]
"""Something when all is ready, and then batches of so many images each, one pass over the data."""


def main() -> None:
    """Run the rounds and print the figures; end with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the server, one for what is measured")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, _site(Path(name), arguments, cores[1]) as site:
        os.sched_setaffinity(0, {cores[0]})
        _report(_measured(_contestants(site), arguments), arguments)


def _contestants(site: "Site") -> dict[str, Batches]:
    dataset = open_dataset(site.config, "train", access=DataAccess(site.config, site.environ))
    folder = open_dataset(bench_config(str(site.folder)), "train")
    found: dict[str, Batches] = {
        "sam3ft": lambda size: _ours(dataset, site.config, size),
        "sam3ft, folder": lambda size: _ours(folder, bench_config(str(site.folder)), size),
        "boto3, 2 workers": lambda size: _boto3(folder, site, size, workers=2),
        "boto3, 8 workers": lambda size: _boto3(folder, site, size, workers=8),
    }
    if find_spec("litdata") is None:
        print("litData: left out, because it is not installed here")
        return found
    names = [f"s3://{BUCKET}/{PREFIX}/train/{key}" for key in folder.keys]
    found["litData, 0 workers"] = lambda size: lit_batches(names, site.client_options(), size, workers=0)
    found["litData, 2 workers"] = lambda size: lit_batches(names, site.client_options(), size, workers=2)
    return found


def _ours(dataset: CocoDataset, config: TrainingConfig, size: int) -> Iterator[Any]:
    config = config.model_copy(
        update={"scratch": config.scratch.model_copy(update={"train_batch_size": size})}, deep=False
    )
    with TrainLoader(dataset, config, micro_batch=size, steps=len(dataset) // size, threads=1) as loader:
        yield "ready"
        yield from loader


class BotoImages(Dataset[Tensor]):
    """Images by boto3, one request an item, a client in each worker."""

    def __init__(self, dataset: CocoDataset, site: "Site") -> None:
        """Remember where; clients do not survive into a worker."""
        self._dataset, self._site = dataset, site
        self._client: Any = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._dataset)

    def __getitem__(self, position: int) -> Tensor:
        """Return one image, uint8 [3, S, S]."""
        if self._client is None:
            torch.set_num_threads(1)
            self._client = self._site.client()
        image_id = self._dataset.image_ids[position]
        key = f"{PREFIX}/train/{self._dataset.key_of(image_id)}"
        content = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        sample = train_sample(self._dataset, image_id, epoch=0, config=self._site.config, content=lambda: content)
        return sample.pixels_3SS


def _boto3(dataset: CocoDataset, site: "Site", size: int, *, workers: int) -> Iterator[Any]:
    yield from warmed(BotoImages(dataset, site), len(dataset), size, workers=workers)


class Site:
    """The server behind the proxy, as clients find it."""

    def __init__(self, folder: Path, environ: dict[str, str], endpoint: str) -> None:
        """Remember folder, variables and endpoint."""
        self.folder, self.environ, self.endpoint = folder, environ, endpoint
        document = bench_config(str(folder)).model_dump(mode="json")
        document["data"]["uri"] = f"s3://{BUCKET}/{PREFIX}"
        document["data"]["valid"]["annotations"] = f"s3://{BUCKET}/{PREFIX}/train/_annotations.coco.json"
        self.config = TrainingConfig.model_validate(document)

    def client(self) -> Any:
        """Return a client of boto3 with its defaults, but for the addressing that the server needs."""
        return boto3.client("s3", config=Config(s3={"addressing_style": "path"}), **self.client_options())

    def client_options(self) -> dict[str, str]:
        """Return endpoint and keys under the names that boto3 has for them."""
        return {
            "endpoint_url": self.endpoint,
            "region_name": self.environ["AWS_REGION"],
            "aws_access_key_id": self.environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.environ["AWS_SECRET_ACCESS_KEY"],
        }


@contextmanager
def _site(folder: Path, arguments: argparse.Namespace, core: int) -> Iterator[Site]:
    """Start the server with the data, and the proxy, on a core of their own."""
    sys.path[:0] = [str(ROOT / "tests" / "components"), str(ROOT / "tools" / "components")]
    from s3_server import S3Server  # noqa: PLC0415 - lies with the tests

    data, buckets = folder / "data", folder / "buckets"
    mean_bytes = write_dataset(data / "train", arguments.images, distinct=DISTINCT)
    print(f"{arguments.images} JPEGs of {mean_bytes / 1024:.0f} KiB, {arguments.latency_ms:g} ms a request")
    buckets.mkdir()
    with S3Server(buckets) as server:
        _pin(server.pid, core)
        _APART.add(server.pid)
        server.upload_folder(server.create_bucket(BUCKET), PREFIX, data)
        command = [sys.executable, "-m", "benchmarks.latency", server.endpoint.removeprefix("http://")]
        with subprocess.Popen(
            [*command, str(arguments.latency_ms), str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as proxy:
            _APART.add(proxy.pid)
            assert proxy.stdout is not None  # noqa: S101 - a pipe was asked for; narrows the type
            endpoint = f"http://127.0.0.1:{int(proxy.stdout.readline())}"
            profiles = server.profiles_file(folder / "storage.yaml", endpoint=endpoint)
            yield Site(data, server.environment() | {"SAM3FT_STORAGE_PROFILES": str(profiles)}, endpoint)
            assert proxy.stdin is not None  # noqa: S101 - as above
            proxy.stdin.close()


def _pin(pid: int, core: int) -> None:
    """Put all threads of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


def _measured(contestants: dict[str, Batches], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the medians of each contestant; the rounds alternate."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for number in range(arguments.rounds):
        for name, batches in contestants.items():
            figures = {**_throughput(batches, arguments.images), "waits": _waits(batches)}
            found[name].append(figures)
            print(
                f"round {number + 1}  {name:<18} {figures['images_per_s_core']:6.1f} images/s/core "
                f"{figures['images_per_s']:6.1f} images/s   waits {100 * figures['waits']:5.1f} % of a step",
                flush=True,
            )
    return {name: {key: median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}


def _throughput(batches: Batches, images: int) -> dict[str, float]:
    """Go through the data as fast as it comes."""
    stream = iter(batches(BATCH))
    next(stream)
    before, started = _cpu_s(), time.monotonic()
    done = sum(BATCH for _ in stream)
    assert done == images // BATCH * BATCH, done  # noqa: S101 - who skips images is no contestant
    return {
        "images_per_s_core": done / (_cpu_s() - before),
        "images_per_s": done / (time.monotonic() - started),
    }


def _waits(batches: Batches) -> float:
    """Return the share of the time that a consumer waits who needs STEP_S for each batch, after the first three."""
    waited, steps, stream = 0.0, 0, iter(batches(STEP_IMAGES))
    next(stream)
    for number in range(10**9):
        started = time.monotonic()
        if next(stream, None) is None:
            break
        if number >= 3:
            waited, steps = waited + time.monotonic() - started, steps + 1
        time.sleep(STEP_S)
    return waited / (steps * STEP_S)


def _cpu_s() -> float:
    """CPU seconds of this process and of its children but the server's and the proxy's, ended ones included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = sum(
        sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True) if child.pid not in _APART
    )
    return time.process_time() + ended.ru_utime + ended.ru_stime + living


def _report(found: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    ours, rivals = found["sam3ft"], [name for name in found if not name.startswith("sam3ft")]
    reached = ours["images_per_s_core"] >= TARGET and ours["waits"] < TARGET_WAITS
    document = {
        "latency_ms": arguments.latency_ms,
        "side": SIDE,
        "figures": {name: {key: round(value, 4) for key, value in row.items()} for name, row in found.items()},
        "ratio_core": {n: round(ours["images_per_s_core"] / found[n]["images_per_s_core"], 2) for n in rivals},
        "ratio_clock": {n: round(ours["images_per_s"] / found[n]["images_per_s"], 2) for n in rivals},
        "target": {"images_per_s_core": TARGET, "waits": TARGET_WAITS},
        "reached": reached,
    }
    print(json.dumps(document))
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
