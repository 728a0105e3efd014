"""Publishing: whole or not at all, nothing foreign overwritten, the manifest last."""

import json
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from sam3ft_api.errors import StorageDenied
from sam3ft_trainer.export.publish import MANIFEST, publish, staging, write_manifest
from sam3ft_trainer.store import uri
from sam3ft_trainer.store.objects import Store


class Bucket(Store):
    """A store in memory that remembers the order of writes."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), address="s3://models/blood")
        self.written: list[str] = []

    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        self.written.append(key)
        super().put(key, data)

    @property
    def keys(self) -> list[str]:
        return [info.key for info in self.list_objects("")]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()
    monkeypatch.setitem(uri.OPENERS, "s3", lambda *_: made)
    return made


def _staged(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"content of {name}")
    write_manifest(folder, {"facts": {}})
    return folder


def test_the_manifest_is_written_last_and_old_files_go(bucket: Bucket, tmp_path: Path) -> None:
    publish(_staged(tmp_path / "a", "config.json", "model-1.safetensors", "model-2.safetensors"), "s3://models/blood")
    bucket.written.clear()
    address = publish(_staged(tmp_path / "b", "config.json", "model.safetensors"), "s3://models/blood")

    assert "s3://models/blood" == address
    assert ["config.json", "model.safetensors", MANIFEST] == bucket.written
    assert ["config.json", "model.safetensors", MANIFEST] == bucket.keys
    assert {"config.json", "model.safetensors"} == set(json.loads(bucket.get(MANIFEST))["files"])


def test_a_broken_upload_is_taken_up_again(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("config.json", b"from the attempt before")

    publish(_staged(tmp_path / "a", "config.json"), "s3://models/blood")

    assert b"content of config.json" == bucket.get("config.json")


def test_foreign_objects_in_a_bucket_are_never_overwritten(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("thesis.pdf", b"mine")

    with pytest.raises(StorageDenied, match=r"holds 1 files that no export of sam3ft wrote \(thesis.pdf\)"):
        publish(_staged(tmp_path / "a", "config.json"), "s3://models/blood")

    assert ["thesis.pdf"] == bucket.keys


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with staging(str(tmp_path / "out"), tmp_path / "scratch") as folder:
            (folder / "config.json").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()

    assert [] == list(tmp_path.iterdir())


def test_a_foreign_destination_is_refused_before_work_is_done(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")

    with (
        pytest.raises(StorageDenied, match=r"notes\.txt"),
        staging(str(tmp_path / "out"), tmp_path / "scratch"),
    ):
        pytest.fail("the destination was accepted")

    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageDenied, match="is a file"), staging(str(tmp_path / "file"), tmp_path / "scratch"):
        pytest.fail("the destination was accepted")


def test_an_export_to_a_bucket_is_built_in_the_scratch_folder(bucket: Bucket, tmp_path: Path) -> None:
    with staging("s3://models/blood", tmp_path / "scratch") as folder:
        assert tmp_path / "scratch" == folder.parent
