"""What is counted, mended or noticed rather than refused; and the account that lists it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.errors import InvalidDataset
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.check import check_dataset
from sam3ft_trainer.data.dataset import open_dataset
from sam3ft_trainer.data.pipeline import EvalLoader, TrainLoader
from sam3ft_trainer.data.report import allowed

Document = dict[str, Any]
Write = Callable[..., Path]
Configured = Callable[..., TrainingConfig]
Many = Callable[[int], Document]
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("share", "total", "expected"),
    [(0.001, 10, 1), (0.001, 3000, 3), (0.0, 10, 1), (0.5, 4, 2), (1.0, 4, 3), (0.001, 1, 0), (0.001, 0, 0)],
)
def test_one_bad_thing_is_always_allowed_and_never_all(share: float, total: int, expected: int) -> None:
    assert expected == allowed(share, total)


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([10, 10, 0, 5], "box_of_zero_size"),
        ([10, 10, 5, -1], "box_of_zero_size"),
        ([60, 10, 5, 5], "box_outside_image"),
        ([-9, 10, 5, 5], "box_outside_image"),
    ],
)
def test_an_unusable_box_is_counted_left_out_and_refused_beyond_the_limit(
    box: list[int], kind: str, document: Document, write_split: Write, configured: Configured
) -> None:
    document["annotations"][1]["bbox"] = box
    write_split(document)

    dataset = open_dataset(configured(), "train")

    assert dataset.report.count(kind) == 1
    assert dataset.report.problems[0].severity == "bad"
    assert "annotation 2" in dataset.report.problems[0].examples[0]
    assert [count.objects for count in dataset.report.categories] == [2, 0]
    document["annotations"][0]["bbox"] = box
    write_split(document)
    with pytest.raises(InvalidDataset, match=r"2 bad annotations, and data\.max_bad allows 1"):
        open_dataset(configured(), "train")
    assert len(open_dataset(configured(data={"max_bad": 0.9}), "train")) == 2


def test_a_box_partly_outside_is_clamped_and_counted(
    document: Document, write_split: Write, configured: Configured
) -> None:
    document["annotations"][1]["bbox"] = [50, 30, 20, 20]
    write_split(document)
    config = configured(augment={"resize_and_pad": False})

    dataset = open_dataset(config, "train")

    assert dataset.report.count("box_partly_outside") == 1
    with TrainLoader(dataset, config, micro_batch=4, steps=1) as loader:
        boxes = next(loader).micro_batches[0].targets.boxes_N4
    assert (boxes[:, :2] + boxes[:, 2:] / 2).max() <= 1
    assert (boxes[:, :2] - boxes[:, 2:] / 2).min() >= 0


def test_what_is_found_beside_the_data_is_noticed(
    document: Document, write_split: Write, configured: Configured
) -> None:
    folder = write_split(document)
    (folder / "._1.jpg").write_bytes(b"x")
    (folder / ".__annotations.coco.json").write_bytes(b"x")
    (folder / "stranger.png").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    document["categories"].append({"id": 0, "name": "animals"})
    document["categories"][0]["supercategory"] = "animals"
    del document["annotations"][0]["bbox"]
    document["annotations"][1]["phrase"] = 7
    write_split(document)

    report = open_dataset(configured(), "train").report

    assert report.count("junk_file") == 2
    assert report.count("image_without_entry") == 1
    assert report.count("empty_parent_category") == 1
    assert report.count("box_from_mask") == 1
    assert report.count("annotation_phrase_ignored") == 1
    assert [category.asked for category in report.categories] == [False, True, True]
    assert report.phrases == ("cat", "dog")


def test_an_empty_parent_can_be_kept(document: Document, write_split: Write, configured: Configured) -> None:
    document["categories"].append({"id": 0, "name": "animals"})
    document["categories"][0]["supercategory"] = "animals"
    write_split(document)

    dataset = open_dataset(configured(data={"ignore_empty_parents": False}), "train")

    assert [category.name for category in dataset.categories] == ["animals", "cat", "dog"]


def test_filtered_objects_are_counted_ahead(document: Document, write_split: Write, configured: Configured) -> None:
    document["annotations"][1]["bbox"] = [1, 1, 0.05, 0.05]
    document["annotations"] += [
        {"id": 10 + n, "image_id": 1, "category_id": 2, "bbox": [n, n, 10, 10]} for n in range(3)
    ]
    write_split(document)

    report = open_dataset(configured(data={"bounds": {"max_objects_per_phrase": 2, "min_area": 2e-6}}), "train").report

    assert (report.dropped.small_always, report.dropped.small_sometimes) == (1, 0)
    assert (report.dropped.crowded_pairs, report.dropped.crowded_objects) == (1, 3)
    assert report.count("small_objects_dropped") == 1
    assert report.count("crowded_phrases_dropped") == 3


def test_the_loader_drops_what_the_account_says(document: Document, write_split: Write, configured: Configured) -> None:
    document["annotations"][1]["bbox"] = [1, 1, 0.05, 0.05]
    document["annotations"] += [
        {"id": 10 + n, "image_id": 1, "category_id": 2, "bbox": [n, n, 10, 10]} for n in range(3)
    ]
    write_split(document)
    config = configured(data={"bounds": {"max_objects_per_phrase": 2, "min_area": 2e-6}})

    with TrainLoader(open_dataset(config, "train"), config, micro_batch=2, steps=1) as loader:
        step = next(loader)

    assert (step.dropped_small, step.dropped_crowded) == (1, 3)
    pairs = [
        (batch.image_ids[image], category)
        for batch in step.micro_batches
        for image, category in zip(batch.img_idx_B.tolist(), batch.category_ids, strict=True)
    ]
    assert sorted(pairs) == [(1, 1), (2, 1), (2, 2)]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[: len(content) // 2], "truncated_image"),
    "text": (lambda _: b"this is no picture", "not_an_image"),
    "empty": (lambda _: b"", "not_an_image"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_image_is_counted_and_keeps_its_place_without_weight(
    damage: Callable[[bytes], bytes], kind: str, many_images: Many, write_split: Write, configured: Configured
) -> None:
    path = write_split(many_images(4)) / "2.jpg"
    path.write_bytes(damage(path.read_bytes()))
    config = configured()

    report = check_dataset(config)["train"]

    assert report.count(kind) == 1
    assert "image 12 ('2.jpg')" in report.problems[0].examples[0]
    dataset = open_dataset(config, "train")
    with TrainLoader(dataset, config, micro_batch=4, steps=1) as loader:
        step = next(loader)
    assert sorted(step.image_ids) == [10, 11, 12, 13]
    (batch,) = step.micro_batches
    place = batch.image_ids.index(12)
    assert place not in batch.img_idx_B.tolist()
    assert batch.pixels_I3SS[place].max() == 0
    assert [image_id for image_id, _ in step.quarantined] == [12]
    loader = EvalLoader(dataset, config)
    assert [batch.img_idx_B.numel() for batch in loader] == [2, 2, 0, 2]
    assert list(loader.quarantined) == [12]


def test_more_damaged_images_than_allowed_refuse_check_and_training(
    many_images: Many, write_split: Write, configured: Configured
) -> None:
    folder = write_split(many_images(4))
    for name in ("1.jpg", "2.jpg"):
        (folder / name).write_bytes(b"nothing")
    config = configured()

    with pytest.raises(InvalidDataset, match=r"2 bad images, and data\.max_bad allows 1"):
        check_dataset(config)
    dataset = open_dataset(config, "train")
    with (
        TrainLoader(dataset, config, micro_batch=4) as loader,
        pytest.raises(InvalidDataset, match="2 images of train"),
    ):
        next(loader)
    with pytest.raises(InvalidDataset, match="2 images of train"):
        list(EvalLoader(dataset, config))
    assert check_dataset(configured(data={"max_bad": 0.5}))["train"].count("not_an_image") == 2


def test_a_split_of_which_no_image_can_be_read_is_refused(
    many_images: Many, write_split: Write, configured: Configured
) -> None:
    write_split(many_images(4))
    (write_split(many_images(1), split="valid") / "0.jpg").write_bytes(b"nothing")
    config = configured(hold_out=True, data={"max_bad": 1.0})

    with pytest.raises(InvalidDataset, match=r"1 bad images, and data\.max_bad allows 0"):
        check_dataset(config)
    with pytest.raises(InvalidDataset, match="1 images of valid cannot be read"):
        list(EvalLoader(open_dataset(config, "valid"), config))


def test_the_check_reads_every_image_of_every_split_and_tells_its_progress(
    many_images: Many, write_split: Write, configured: Configured
) -> None:
    write_split(many_images(6))
    write_split(many_images(3), split="test")
    seen: list[tuple[str, int, int]] = []

    reports = check_dataset(configured(hold_out=True), threads=2, progress=lambda *step: seen.append(step))

    assert {split: report.images for split, report in reports.items()} == {"train": 5, "valid": 1, "test": 3}
    assert seen == [("train", n, 5) for n in range(1, 6)] + [("valid", 1, 1)] + [("test", n, 3) for n in range(1, 4)]
    assert all(report.decoded for report in reports.values())


def test_the_report_is_plain_json(document: Document, write_split: Write, configured: Configured) -> None:
    folder = write_split(document)

    report = open_dataset(configured(), "train").report

    again = json.loads(json.dumps(report.to_json()))
    assert again["images"] == 2
    assert again["annotations"] == 3
    assert again["digest"] == report.digest
    assert again["address"] == str(folder / "_annotations.coco.json")
    assert [category["masks"] for category in again["categories"]] == [2, 0]


def test_every_kind_that_the_code_counts_or_refuses_is_documented() -> None:
    page = (REPOSITORY / "docs" / "bad-input.md").read_text()
    folder = REPOSITORY / "trainer" / "sam3ft_trainer" / "data"
    code = "".join(path.read_text() for path in folder.glob("*.py"))

    kinds = set(re.findall(r'\.(?:refuse|add)\(\s*"([a-z_]+)"', code))
    kinds |= set(re.findall(r'BadImage\(\s*"([a-z_]+)"', code))

    assert len(kinds) > 25
    assert sorted(kind for kind in kinds if f"`{kind}`" not in page) == []
