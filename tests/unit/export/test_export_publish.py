"""Publishing: whole or not at all, nothing foreign overwritten, the manifest last."""

import json
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.export.publish import MANIFEST, export_record, is_in_place, publish, staging, write_manifest
from sam3ft_trainer.store import uri
from sam3ft_trainer.store.objects import Store


class Bucket(Store):
    """A store in memory that remembers the order of writes."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), address="s3://models/blood")
        self.written: list[str] = []
        self.spoilt = 0

    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        self.written.append(key)
        if self.spoilt:
            self.spoilt -= 1
            data = b"spoilt"
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


def test_the_same_content_is_not_written_again(bucket: Bucket, tmp_path: Path) -> None:
    publish(_staged(tmp_path / "a", "config.json", "model.safetensors"), "s3://models/blood")
    bucket.written.clear()
    publish(_staged(tmp_path / "b", "config.json", "model.safetensors"), "s3://models/blood")
    assert [] == bucket.written

    bucket.delete(["config.json"])
    publish(_staged(tmp_path / "c", "config.json", "model.safetensors"), "s3://models/blood")
    assert ["config.json", "model.safetensors", MANIFEST] == bucket.written


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_arrives_changed_is_written_again_and_refused_the_second_time(
    bucket: Bucket, tmp_path: Path, times: int
) -> None:
    bucket.spoilt = times
    staged = _staged(tmp_path / "a", "config.json")

    if times == 1:
        publish(staged, "s3://models/blood")
        assert b"content of config.json" == bucket.get("config.json")
    else:
        with pytest.raises(StorageUnavailable, match=r"config\.json was accepted 2 times"):
            publish(staged, "s3://models/blood")
        assert MANIFEST not in bucket.keys


@pytest.mark.parametrize("harm", ["none", "delete", "truncate", "manifest"])
def test_an_export_is_in_place_while_its_manifest_and_all_sizes_are_those_recorded(
    bucket: Bucket, tmp_path: Path, harm: str
) -> None:
    staged = _staged(tmp_path / "a", "config.json", "model.safetensors")
    record = export_record(staged, address="s3://models/blood")
    publish(staged, "s3://models/blood")
    if harm == "delete":
        bucket.delete(["model.safetensors"])
    elif harm == "truncate":
        bucket.put("model.safetensors", b"x")
    elif harm == "manifest":
        bucket.put(MANIFEST, bytes(len(bucket.get(MANIFEST))))

    assert (harm == "none") == is_in_place(record)
    assert ["config.json", "model.safetensors", MANIFEST] == [file.name for file in record.files]


def test_an_export_whose_folder_is_gone_is_not_in_place(tmp_path: Path) -> None:
    record = export_record(_staged(tmp_path / "a", "config.json"), address=str(tmp_path / "gone"))

    assert not is_in_place(record)


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
    (tmp_path / "scratch" / ".sam3ft-export-of-a-killed-attempt").mkdir(parents=True)
    with staging("s3://models/blood", tmp_path / "scratch") as folder:
        assert [folder] == list((tmp_path / "scratch").iterdir())
