"""The servers of the tests: found when built, named when not, and really servers."""

from pathlib import Path

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store
from s3_server import REGION, S3Server

import components


def store_of(server: S3Server, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True},
    )


def test_a_component_that_is_not_built_is_an_error_that_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAM3FT_COMPONENTS", str(tmp_path))

    with pytest.raises(components.ComponentMissing, match="versitygw is not built; run make components"):
        components.binary("versitygw")


def test_the_place_of_a_component_follows_its_lock_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "versitygw").mkdir()
    (tmp_path / "versitygw" / "go.mod").write_text("module one\n")
    monkeypatch.setattr(components, "HERE", tmp_path)
    before = components.home("versitygw")

    (tmp_path / "versitygw" / "go.mod").write_text("module two\n")

    assert components.home("versitygw") != before


def test_the_s3_server_keeps_its_objects_and_its_port_over_a_restart(tmp_path: Path) -> None:
    (tmp_path / "buckets").mkdir()
    with S3Server(tmp_path / "buckets") as server:
        store = store_of(server, server.create_bucket("kept"))
        obstore.put(store, "a/b", b"value")
        endpoint = server.endpoint

        server.stop()
        server.start()

        assert endpoint == server.endpoint
        assert b"value" == obstore.get(store, "a/b").bytes().to_bytes()


def test_the_s3_server_refuses_to_create_an_object_twice(s3_server: S3Server, s3_bucket: str) -> None:
    store = store_of(s3_server, s3_bucket)
    obstore.put(store, "key", b"first", mode="create")

    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"second", mode="create")

    assert b"first" == obstore.get(store, "key").bytes().to_bytes()
