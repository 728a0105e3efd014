"""Small data sets, once in a folder and once in a bucket of a real S3 server."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_bench import Twin
from s3_server import S3Server

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Wait for threads whose request a test has left unanswered: other tests count threads."""
    yield
    give_up_at = time.monotonic() + 30
    while any(thread.name.startswith("sam3ft-") for thread in threading.enumerate()):
        assert time.monotonic() < give_up_at, threading.enumerate()
        time.sleep(0.02)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """A server that the test may stop, slow and spoil."""
    (tmp_path / "buckets").mkdir()
    with S3Server(tmp_path / "buckets") as server:
        yield server


@pytest.fixture
def twin(tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> Callable[..., Twin]:
    """Return a function that writes a data set into a folder and into a fresh bucket."""

    def make(count: int = 12, **options: Any) -> Twin:
        return Twin(tmp_path, s3_server, s3_bucket, count=count, **options)

    return make
