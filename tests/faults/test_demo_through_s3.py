"""The demo's data and checkpoints in a bucket instead of folders: the model that comes out is the same, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_bench import assert_each_image_of_each_epoch_once, state_hashes
from outage_bench import places_of
from s3_server import S3Server

from sam3ft_api.training import StorageConfig
from sam3ft_api.worker import ENV_CACHE_DIR, ENV_STORAGE_PROFILES
from sam3ft_faults.record import Figures
from sam3ft_trainer.store.access import run_access

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = (
    "training.maxSteps=8",
    "training.resolution=28",
    "model.uri=preset:tiny-nano",
    "evaluation.baseline=false",
    "checkpoint.everySteps=3",
)
FIXED = ("training.maxDuration=null", "training.config.runtime.trace_samples=true")


def run(folder: Path, *settings: str, **environment: str) -> str:
    """Run the demo with settings changed; returns its output."""
    words = [word for setting in settings for word in ("--set", setting)]
    command = [str(Path(sys.executable).with_name("sam3ft")), "run", str(EXAMPLES / "blood-cells.yaml"), *words]
    ended = subprocess.run(
        [*command, "--run-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=3000,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stdout


def check(server: S3Server, bucket: str, folder: Path, steps: int, *settings: str, **environment: str) -> None:
    """Both ways give the same state, the same weights and the same images of every step."""
    server.upload_folder(bucket, "cells", EXAMPLES / "blood-cells")
    profiles = server.profiles_file(folder / "storage.yaml")
    store = server.environment() | {ENV_STORAGE_PROFILES: str(profiles)}
    addresses = (f"data.uri=s3://{bucket}/cells", f"checkpoint.uri=s3://{bucket}/runs/cells")

    run(folder / "plain", *settings, *FIXED, **environment)
    output = run(folder / "bucket", *settings, *FIXED, *addresses, **environment, **store)

    access = run_access(StorageConfig(), store)
    plain = state_hashes(str(folder / "plain/checkpoints"), steps)
    assert plain == state_hashes(f"s3://{bucket}/runs/cells", steps, access=access)
    weights = [(folder / name / "model/model.safetensors").read_bytes() for name in ("plain", "bucket")]
    assert weights[0] == weights[1]
    images = [assert_each_image_of_each_epoch_once(folder / name, steps=steps) for name in ("plain", "bucket")]
    assert images[0] == images[1]
    assert [] == list((folder / "bucket").rglob("checkpoints/*"))
    assert [] == places_of((server.access_key, server.secret_key), folder / "bucket", texts=(output,))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_steps_of_the_demo_through_a_bucket_are_those_from_folders(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
):
    check(s3_server, s3_bucket, tmp_path, 8, *QUICK)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_demo_through_a_bucket_and_the_node_s_cache_is_the_one_from_folders(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, figures: Figures
):
    check(
        s3_server,
        s3_bucket,
        tmp_path,
        150,
        "training.maxSteps=150",
        "evaluation.everyEpochs=1",
        **{ENV_CACHE_DIR: str(tmp_path / "cache")},
    )

    figures.add("the demo through a bucket, 150 steps", seed=123, different_bits=0)
