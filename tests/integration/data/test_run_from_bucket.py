"""A whole run from a bucket: the weights of the run from a folder, its figures in the log, its bad images on record."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
from data_bench import Twin, jpeg
from s3_server import S3Server

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.worker import ENV_CACHE_DIR

pytestmark = pytest.mark.timeout(300)


class Run:
    """A worker in a process of its own."""

    def __init__(self, both: Twin, name: str, uri: str, *, cache: bool = True, every: int = 3) -> None:
        """Run to the end, three saves."""
        self.work_dir = both.root / name
        self.work_dir.mkdir(exist_ok=True)
        document = {
            "model": {"uri": "preset:tiny-nano"},
            "data": {"uri": uri, "max_bad": 0.2},
            "scratch": {"resolution": 28, "train_batch_size": 4, "precision": "fp32", "max_steps": 3 * every},
            "checkpoint": {"uri": str(self.work_dir / "checkpoint"), "every_steps": every},
            "evaluation": {"every_epochs": None, "baseline": False},
            "runtime": {"threads": 1, "micro_batch": 2, "tensorboard": False, "log_every": 1, "outage_s": 20},
        }
        (self.work_dir / "config.json").write_text(json.dumps(document))
        variables = {
            "SAM3FT_CONFIG": str(self.work_dir / "config.json"),
            "SAM3FT_WORK_DIR": str(self.work_dir),
            "SAM3FT_RESULT_FILE": str(self.work_dir / "result.json"),
        }
        if cache:
            variables[ENV_CACHE_DIR] = str(both.root / "cache")
        self.process = subprocess.run(
            [sys.executable, "-m", "sam3ft_trainer.run.worker"],
            env=os.environ | both.environ() | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.code = self.process.returncode

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name, of all attempts."""
        lines = (self.work_dir / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def losses(self) -> list[float]:
        """Return the losses of all steps."""
        return [event["loss"] for event in self.events("train_interval")]

    def weights(self) -> list[str]:
        """Return the hashes of the newest commit's files of weights."""
        newest = max((self.work_dir / "checkpoint" / "ckpt").iterdir(), key=lambda path: path.name)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(newest.glob("model*.safetensors"))]

    def bad(self) -> list[dict[str, Any]]:
        """Return the documents about bad images."""
        return [json.loads(path.read_text()) for path in sorted((self.work_dir / "checkpoint").glob("bad/*.json"))]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Twin:
    """A data set with a damaged image."""
    twin = Twin(tmp_path_factory.mktemp("runs"), s3_server, s3_server.create_bucket("runs-from-bucket"), valid=True)
    damaged = twin.folder / "train" / "7.jpg"
    damaged.write_bytes(jpeg(7)[:250])
    twin.upload()
    return twin


@pytest.fixture(scope="module")
def folder(both: Twin) -> Run:
    """The run from the folder."""
    return Run(both, "folder", str(both.folder))


@pytest.fixture(scope="module")
def bucket(both: Twin) -> Run:
    """The run from the bucket, with a cache that is empty at first."""
    return Run(both, "bucket", both.uri)


def test_the_run_from_a_bucket_has_the_weights_of_the_run_from_a_folder(folder: Run, bucket: Run) -> None:
    assert (0, 0) == (folder.code, bucket.code), bucket.process.stderr[-3000:]
    assert 9 == len(bucket.losses())
    assert folder.losses() == bucket.losses()
    assert folder.weights() == bucket.weights() != []


def test_what_reading_costs_is_in_the_log_of_a_bucket_alone(both: Twin, folder: Run, bucket: Run) -> None:
    assert [] == [event for event in folder.events("train_interval") if "reading" in event]
    assert [] == folder.events("data_from_store")
    (opened,) = bucket.events("data_from_store")
    assert (f"{both.uri}/train", str(both.root / "cache")) == (opened["address"], opened["cache"]["folder"])
    told = [event["reading"] for event in bucket.events("train_interval") if "reading" in event]
    assert sum(reading["fetched"] for reading in told) >= both.count
    assert sum(reading["hits"] for reading in told) > 0
    assert all(reading["cache"]["used_bytes"] > 0 for reading in told)
    assert all(reading["p50_ms"] > 0 for reading in told if reading["fetched"])


def test_a_commit_is_told_when_it_is_made_and_not_at_the_next_save(both: Twin) -> None:
    run = Run(both, "long", str(both.folder), every=20)

    lines = [json.loads(line) for line in (run.work_dir / "events.jsonl").read_text().splitlines()]
    told = [(event["event"], event["step"]) for event in lines if "step" in event]
    assert told.index(("checkpoint_committed", 20)) < told.index(("train_interval", 40)), told


def test_a_restarted_worker_reads_from_the_cache(both: Twin, bucket: Run) -> None:
    again = Run(both, "again", both.uri)

    assert bucket.losses() == again.losses()
    assert 0 == sum(event["reading"]["fetched"] for event in again.events("train_interval") if "reading" in event)


def test_without_a_cache_folder_the_log_says_so(both: Twin, bucket: Run) -> None:
    plain = Run(both, "plain", both.uri, cache=False)

    assert bucket.losses() == plain.losses()
    (opened,) = plain.events("data_from_store")
    assert opened["cache"]["folder"] is None
    assert "SAM3FT_CACHE_DIR is not set" in opened["cache"]["reason"]


def test_a_bad_image_is_on_record_once_beside_the_checkpoints(both: Twin, bucket: Run) -> None:
    (told,) = bucket.bad()

    content = (both.folder / "train" / "7.jpg").read_bytes()
    assert (17, "7.jpg", f"{both.uri}/train") == (told["image_id"], told["key"], told["address"])
    assert hashlib.sha256(content).hexdigest() == told["sha256"]
    assert hashlib.md5(content).hexdigest() == told["etag"].strip('"')  # noqa: S324 - the server's etag is an MD5
    assert "truncated or damaged" in told["error"]
    assert 1 == len(bucket.events("image_quarantined"))


def test_a_run_begun_from_a_folder_goes_on_from_a_bucket_and_not_from_other_annotations(
    both: Twin, folder: Run
) -> None:
    shutil.copytree(folder.work_dir, both.root / "moved")  # the other tests read the log of the run from the folder
    shutil.copytree(folder.work_dir, both.root / "other")
    moved = Run(both, "moved", both.uri)

    assert 0 == moved.code, moved.process.stderr[-3000:]
    assert 1 == len(moved.events("already_complete"))

    changed = both.root / "changed"
    shutil.copytree(both.folder, changed)
    document = json.loads((changed / "train" / "_annotations.coco.json").read_text())
    document["annotations"].pop()
    (changed / "train" / "_annotations.coco.json").write_text(json.dumps(document))
    both.server.upload_folder(both.bucket, "changed", changed)

    refused = Run(both, "other", f"s3://{both.bucket}/changed")

    assert ExitCode.CHECKPOINT_INCOMPATIBLE == refused.code


def test_the_check_fills_the_cache_for_the_run_and_says_so(both: Twin) -> None:
    cache = both.root / "cache of the check"
    document = {
        "model": {"uri": "preset:tiny-nano"},
        "data": {"uri": both.uri, "max_bad": 0.2},
        "scratch": {"resolution": 28, "train_batch_size": 4},
    }
    (both.root / "check.json").write_text(json.dumps(document))

    check = subprocess.run(
        [sys.executable, "-m", "sam3ft_trainer", "check", "--config", str(both.root / "check.json")],
        env=os.environ | both.environ() | {ENV_CACHE_DIR: str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert 0 == check.returncode, check.stderr
    assert "data: 16 fetched (" in check.stdout
    assert f"bytes in {cache}" in check.stdout
    assert "checking train: 12/12 images" in check.stderr
    assert 16 == len([path for path in (cache / "images").rglob("*") if len(path.name) == 64])
