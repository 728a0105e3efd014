"""A data set in a bucket gives what the same files in a folder give, and is refused for the same reasons."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_bench import Twin, assert_equal, figures_of, make_document, steps_of

from sam3ft_api.errors import InvalidConfig, InvalidDataset, StorageDenied
from sam3ft_trainer.data import remote
from sam3ft_trainer.data.check import check_dataset
from sam3ft_trainer.data.dataset import open_dataset
from sam3ft_trainer.data.pipeline import EvalLoader
from sam3ft_trainer.data.report import DatasetReport
from sam3ft_trainer.store.objects import Store

Make = Callable[..., Twin]


def findings(report: DatasetReport) -> list[tuple[str, str, int]]:
    return [(problem.kind, problem.severity, problem.count) for problem in report.problems]


@pytest.mark.parametrize("below", ["", "images"])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_bucket_and_folder_give_the_same_batches_bit_for_bit(below: str, task: str, twin: Make) -> None:
    both = twin(below=below)
    scratch = {"enable_segmentation": task == "segmentation"}
    here, there = both.config(str(both.folder), scratch=scratch), both.config(scratch=scratch)

    from_folder = steps_of(open_dataset(here, "train"), here, steps=6, threads=2)
    from_bucket = steps_of(both.open(there), there, steps=6, threads=2)

    assert_equal(from_folder, from_bucket)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_batches_depend_neither_on_threads_nor_on_the_cache(world: int, twin: Make, tmp_path: Path) -> None:
    both = twin()
    config = both.config()
    access = both.access(cache=tmp_path / "cache")
    cached = open_dataset(config, "train", access=access)

    for rank in range(world):
        plain = steps_of(both.open(), config, steps=4, rank=rank, world_size=world)
        first = steps_of(cached, config, steps=4, rank=rank, world_size=world, threads=3)
        again = steps_of(cached, config, steps=4, rank=rank, world_size=world)

        assert_equal(plain, first)
        assert_equal(plain, again)


def test_evaluation_reads_the_same_from_bucket_and_folder(twin: Make) -> None:
    both = twin()
    here, there = both.config(str(both.folder)), both.config()

    from_folder = list(EvalLoader(open_dataset(here, "train"), here))
    from_bucket = list(EvalLoader(both.open(), there))

    assert len(from_folder) == both.count
    assert [batch.image_ids for batch in from_folder] == [batch.image_ids for batch in from_bucket]
    assert all(
        a.pixels_I3SS.equal(b.pixels_I3SS) and a.targets.boxes_N4.equal(b.targets.boxes_N4)
        for a, b in zip(from_folder, from_bucket, strict=True)
    )


def test_the_account_of_a_bucket_is_that_of_the_folder(twin: Make) -> None:
    both = twin(valid=True)
    (both.folder / "train" / "._0.jpg").write_bytes(b"macOS was here")
    (both.folder / "train" / "stranger.jpg").write_bytes(b"nobody names it")
    (both.folder / "train" / "3.jpg").write_bytes(b"")
    both.upload()
    bounds = {"max_bad": 0.5, "valid": {}}
    here, there = both.config(str(both.folder), data=bounds), both.config(data=bounds)

    folder = check_dataset(here)
    bucket = check_dataset(there, access=both.access(there))

    assert ["train", "valid"] == list(folder) == list(bucket)
    assert {("junk_file", "notice", 1), ("image_without_entry", "notice", 1), ("not_an_image", "bad", 1)} <= set(
        findings(bucket["train"])
    )
    for split in folder:
        assert findings(folder[split]) == findings(bucket[split])
        assert (folder[split].digest, folder[split].images) == (bucket[split].digest, bucket[split].images)


def test_without_a_validation_prefix_the_same_images_are_held_out(twin: Make) -> None:
    both = twin()
    here, there = both.config(str(both.folder), data={"valid": {}}), both.config(data={"valid": {}})
    access = both.access(there)

    for split in ("train", "valid"):
        folder, bucket = open_dataset(here, split), open_dataset(there, split, access=access)

        assert folder is not None
        assert bucket is not None
        assert folder.image_ids == bucket.image_ids


def test_a_prefix_is_listed_once_for_all_splits(twin: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    both = twin()
    config = both.config(data={"valid": {}})
    access = both.access(config)
    asked: list[str] = []
    original = Store.list_objects
    monkeypatch.setattr(
        Store, "list_objects", lambda self, prefix: asked.append(self.address) or original(self, prefix)
    )

    for split in ("train", "valid", "test"):
        open_dataset(config, split, access=access)

    assert sorted(f"{both.uri}/{name}" for name in ("train", "valid", "val", "test")) == sorted(asked)


def test_addresses_of_a_split_count_from_the_data_set_address(twin: Make) -> None:
    both = twin()
    shutil.move(both.folder / "train" / "_annotations.coco.json", both.folder / "labels.json")
    both.server.upload_folder(both.bucket, "other", both.folder)
    place = {"annotations": "labels.json", "images": "train"}
    relative = both.config(f"s3://{both.bucket}/other", data={"train": place, "valid": place})
    absolute = both.config(
        data={"train": {"annotations": str(both.folder / "labels.json"), "images": f"s3://{both.bucket}/other/train"}}
    )

    opened = both.open(relative), both.open(absolute)

    assert [f"s3://{both.bucket}/other/train"] * 2 == [dataset.source.address for dataset in opened]
    assert f"s3://{both.bucket}/other/labels.json" == opened[0].report.address
    assert opened[0].report.digest == opened[1].report.digest


def test_names_with_spaces_and_signs_are_found(twin: Make) -> None:
    both = twin(count=2)
    names = ["a b#c%20d+e.jpg", "ü/é~(1).jpg"]
    for entry, name in zip(both.document["images"], names, strict=True):
        (both.folder / "train" / name).parent.mkdir(exist_ok=True)
        shutil.copy(both.folder / "train" / entry["file_name"], both.folder / "train" / name)
        entry["file_name"] = name
    (both.folder / "train" / "_annotations.coco.json").write_text(json.dumps(both.document))
    both.upload()

    dataset = both.open()

    assert names == list(dataset.keys)
    assert [(both.folder / "train" / name).read_bytes() for name in names] == [
        dataset.read_image(image_id) for image_id in dataset.image_ids
    ]


REFUSED: list[tuple[str, Any, str]] = [
    ("missing", "gone.jpg", r"image 10: file 'gone.jpg' is neither in 's3://.*/train' nor in its images/"),
    ("climbs", "../secret.jpg", r"image 10: path '../secret.jpg' leaves its folder through '..'"),
    ("absolute", "/etc/passwd", r"image 10: path '/etc/passwd' is absolute"),
    ("empty of letters", "a\x00b.jpg", r"neither in"),
]


@pytest.mark.parametrize(("_what", "name", "message"), REFUSED)
def test_names_that_cannot_be_used_are_refused_with_address_and_key(
    _what: str, name: str, message: str, twin: Make
) -> None:
    both = twin(count=2)
    both.document["images"][0]["file_name"] = name
    (both.folder / "train" / "_annotations.coco.json").write_text(json.dumps(both.document))
    both.upload()

    with pytest.raises(InvalidDataset, match=message) as refusal:
        both.open()

    assert f"{both.uri}/train/_annotations.coco.json" in str(refusal.value)
    assert 11 == refusal.value.code


def test_annotations_that_are_no_coco_are_refused_by_their_address(twin: Make) -> None:
    both = twin(count=2)
    (both.folder / "train" / "_annotations.coco.json").write_text('{"images": []}')
    both.upload()

    with pytest.raises(InvalidDataset, match=rf"{both.uri}/train/_annotations.coco.json is JSON, but not COCO"):
        both.open()


def test_a_split_without_annotations_is_refused(twin: Make) -> None:
    both = twin(count=2)
    address = f"s3://{both.bucket}/bare"
    (both.root / "bare").mkdir()
    (both.root / "bare" / "1.jpg").write_bytes(b"x")
    both.server.upload_folder(both.bucket, "bare/train", both.root / "bare")

    with pytest.raises(InvalidDataset, match=r"bare/train/_annotations.coco.json' cannot be read \(there is no such"):
        both.open(both.config(address, data={"valid": {}}))


def test_an_address_without_train_is_refused(twin: Make) -> None:
    both = twin(count=2)

    with pytest.raises(InvalidDataset, match=r"set/train' has no folder train/"):
        both.open(both.config(f"{both.uri}/train", data={"valid": {}}))
    with pytest.raises(StorageDenied, match=r"nothing' holds no object") as refusal:
        both.open(both.config(f"s3://{both.bucket}/nothing", data={"valid": {}}))

    assert 13 == refusal.value.code


def test_a_bucket_that_does_not_exist_is_denied(twin: Make) -> None:
    both = twin(count=2)

    with pytest.raises(StorageDenied, match=r"s3://no-such-bucket-here/"):
        both.open(both.config("s3://no-such-bucket-here/set"))


def test_wrong_keys_are_denied_at_the_start(twin: Make) -> None:
    both = twin(count=2)
    config = both.config()
    access = both.access(config)
    access._environ = {**both.environ(), "AWS_SECRET_ACCESS_KEY": "wrong"}  # type: ignore[attr-defined]

    with pytest.raises(StorageDenied, match=both.bucket) as refusal:
        open_dataset(config, "train", access=access)

    assert 13 == refusal.value.code


def test_an_address_with_credentials_is_a_wrong_setting(twin: Make) -> None:
    both = twin(count=2)

    with pytest.raises(InvalidConfig, match="credentials"):
        both.open(both.config("s3://key:secret@bucket/set"))


def test_an_image_that_is_replaced_is_counted_and_read_as_it_is_now(twin: Make, tmp_path: Path) -> None:
    both = twin(count=4)
    access = both.access(cache=tmp_path / "cache")
    dataset = open_dataset(both.config(), "train", access=access)
    before = dataset.read_image(10)
    shutil.copy(both.folder / "train" / "1.jpg", both.folder / "train" / "2.jpg")
    both.upload()

    now = [dataset.read_image(12), dataset.read_image(12)]

    assert before != now[0]
    assert [(both.folder / "train" / "1.jpg").read_bytes()] * 2 == now
    figures = figures_of(access)
    assert (1, 2, 1) == (figures["changed"], figures["fetched"], figures["hits"])
    later = both.access(cache=tmp_path / "cache")
    assert now[0] == open_dataset(both.config(), "train", access=later).read_image(12)
    told = figures_of(later)
    assert (0, 1, 0) == (told["fetched"], told["hits"], told["changed"])


def test_an_image_that_is_deleted_under_the_run_ends_it_with_its_name(twin: Make) -> None:
    both = twin(count=8)
    config = both.config()
    dataset = both.open()
    (both.server.folder / both.bucket / "set" / "train" / "5.jpg").unlink()

    with pytest.raises(InvalidDataset, match=r"object '5.jpg' of 's3://.*/train' was there .* and is gone") as end:
        steps_of(dataset, config)

    assert 11 == end.value.code


def test_damaged_images_keep_their_place_and_carry_their_hash(twin: Make) -> None:
    both = twin(count=8)
    path = both.folder / "train" / "5.jpg"
    path.write_bytes(path.read_bytes()[:200])
    both.upload()
    config = both.config()

    steps = steps_of(both.open(), config)

    told = [pair for step in steps for pair in zip(step.quarantined, step.quarantined_sha256, strict=True)]
    assert [(15, hashlib.sha256(path.read_bytes()).hexdigest())] == [(pair[0], sha256) for pair, sha256 in told]


def test_large_annotations_come_in_parts_and_as_one_version(twin: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    both = twin(count=20)
    path = both.folder / "train" / "_annotations.coco.json"
    monkeypatch.setattr(remote, "PART_BYTES", path.stat().st_size // 4)
    starts: list[int] = []
    original = Store.get_range

    def replacing(store: Store, key: str, start: int, length: int) -> memoryview:
        starts.append(start)
        if len(starts) == 3:
            path.write_text(json.dumps(make_document(19)))
            both.upload()
        return original(store, key, start, length)

    monkeypatch.setattr(Store, "get_range", replacing)

    dataset = both.open()

    assert 19 == len(dataset)
    assert 2 == starts.count(0)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == dataset.report.digest
