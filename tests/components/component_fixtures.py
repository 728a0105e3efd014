"""Fixtures of real servers, for every test."""

import uuid
from collections.abc import Iterator

import pytest
from s3_server import S3Server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the whole session; tests keep apart by buckets. Whoever stops or slows one starts another."""
    folder = tmp_path_factory.mktemp("s3") / "buckets"
    folder.mkdir()
    with S3Server(folder) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """Return the name of a fresh bucket."""
    return s3_server.create_bucket(f"test-{uuid.uuid4().hex[:12]}")
