"""Where splits lie, what is held out, and few-shot subsets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import open_dataset
from sam3ft_trainer.data.draw import draw_batch
from sam3ft_trainer.data.pipeline import TrainLoader
from sam3ft_trainer.data.subsets import holdout_rows

Document = dict[str, Any]
Write = Callable[..., Path]
Configured = Callable[..., TrainingConfig]
Many = Callable[[int], Document]
REPOSITORY = Path(__file__).resolve().parents[3]


def test_images_lie_beside_the_annotations_or_in_images(
    document: Document, write_split: Write, configured: Configured
) -> None:
    folder = write_split(document)
    (folder / "images").mkdir()
    (folder / "2.jpg").rename(folder / "images" / "2.jpg")

    dataset = open_dataset(configured(), "train")

    assert dataset.keys == ("1.jpg", "images/2.jpg")


def test_addresses_of_their_own_take_the_place_of_the_layout(
    document: Document, write_split: Write, tmp_path: Path
) -> None:
    folder = write_split(document, split="pictures")
    annotations = tmp_path / "elsewhere.json"
    (folder / "_annotations.coco.json").rename(annotations)

    config = TrainingConfig.model_validate(
        {"data": {"train": {"annotations": f"file://{annotations}", "images": str(folder)}}}
    )
    dataset = open_dataset(config, "train")

    assert dataset.report.address == str(annotations)
    assert dataset.read_image(1) == (folder / "1.jpg").read_bytes()
    assert open_dataset(config, "test") is None


def test_a_folder_named_val_is_the_validation_split(
    document: Document, write_split: Write, configured: Configured
) -> None:
    write_split(document)
    write_split(document, split="val")

    dataset = open_dataset(configured(hold_out=True), "valid")

    assert dataset is not None
    assert dataset.report.address.endswith("val/_annotations.coco.json")
    assert len(open_dataset(configured(hold_out=True), "train")) == 2


def test_without_a_validation_split_train_is_divided(
    many_images: Many, write_split: Write, configured: Configured
) -> None:
    write_split(many_images(20))
    config = configured(hold_out=True, data={"holdout": 0.2})

    train, valid = open_dataset(config, "train"), open_dataset(config, "valid")

    assert valid is not None
    assert (len(train), len(valid)) == (16, 4)
    assert not set(train.image_ids) & set(valid.image_ids)
    assert train.report.count("holdout") == 4
    assert train.report.held_out == 4
    assert train.report.digest == valid.report.digest
    other = open_dataset(configured(hold_out=True, data={"holdout": 0.2}, scratch={"seed_value": 5}), "valid")
    assert other is not None
    assert other.image_ids != valid.image_ids


def test_the_hold_out_hardly_changes_when_images_are_added() -> None:
    names = [f"{number}.jpg" for number in range(200)]

    before = set(holdout_rows(names, share=0.1, seed=1).tolist())
    after = set(holdout_rows([*names, "new.jpg"], share=0.1, seed=1).tolist())

    assert len(before) == 20
    assert len(before ^ (after - {200})) <= 1


def test_copies_of_one_picture_stay_on_one_side() -> None:
    names = [f"{number // 3}_png.rf.{number:08x}.jpg" for number in range(90)]

    rows = holdout_rows(names, share=0.1, seed=1)

    assert len(rows) == 9
    assert len({row // 3 for row in rows.tolist()}) == 3


def test_one_picture_cannot_be_divided(many_images: Many, write_split: Write, configured: Configured) -> None:
    write_split(many_images(1))
    config = configured(hold_out=True)

    assert open_dataset(config, "valid") is None
    assert len(open_dataset(config, "train")) == 1
    assert np.zeros(0).tolist() == holdout_rows(["a.jpg"], share=0.5, seed=0).tolist()


@pytest.mark.parametrize("shots", [1, 3])
def test_a_few_shot_subset_has_enough_images_of_each_category_and_no_more_than_needed(
    shots: int, many_images: Many, write_split: Write, configured: Configured
) -> None:
    write_split(many_images(30))

    dataset = open_dataset(configured(data={"few_shot": {"shots": shots}}), "train")

    assert all(category.images >= shots for category in dataset.report.categories)
    assert len(dataset) <= 2 * shots
    assert dataset.report.held_out == 30 - len(dataset)
    other = open_dataset(configured(data={"few_shot": {"shots": shots, "seed": 1}}), "train")
    assert other.image_ids != dataset.image_ids


def test_a_category_with_too_few_images_is_told(document: Document, write_split: Write, configured: Configured) -> None:
    write_split(document)

    report = open_dataset(configured(data={"few_shot": {"shots": 2}}), "train").report

    assert report.count("few_shot_short") == 1
    assert any("'dog' has 1 images" in example for problem in report.problems for example in problem.examples)


def test_a_mask_alone_gives_the_box(document: Document, write_split: Write, configured: Configured) -> None:
    del document["annotations"][0]["bbox"]
    del document["annotations"][2]["bbox"]
    write_split(document)

    index = open_dataset(configured(), "train").index

    assert index.boxes_m4.tolist() == [[10, 10, 20, 10], [0, 0, 5, 5], [0, 0, 60, 40]]
    assert index.has_mask.tolist() == [True, False, True]


def test_annotations_are_grouped_by_image_and_keep_the_order_of_the_file(
    document: Document, write_split: Write, configured: Configured
) -> None:
    document["annotations"] = [document["annotations"][place] for place in (2, 1, 0)]
    document["images"].reverse()
    document["annotations"][2]["id"] = 0
    write_split(document)

    dataset = open_dataset(configured(), "train")

    assert dataset.image_ids == (1, 2)
    assert dataset.index.annotation_ids.tolist() == [2, 0, 3]
    assert dataset.index.starts.tolist() == [0, 2, 3]
    assert [dataset.index.segmentations.get(row) is not None for row in range(3)] == [False, True, True]


def test_the_shipped_example_is_sound() -> None:
    config = TrainingConfig.model_validate({"data": {"uri": str(REPOSITORY / "examples" / "blood-cells")}})

    train, valid, test = (open_dataset(config, split) for split in ("train", "valid", "test"))

    assert train is not None
    assert valid is not None
    assert test is not None
    assert (len(train), len(valid), len(test)) == (189, 21, 30)
    assert test.report.annotations == 691
    assert {problem.severity for dataset in (train, valid, test) for problem in dataset.report.problems} == {"notice"}
    assert train.report.count("empty_parent_category") == 1
    assert train.phrases == ("rbc", "wbc")


def test_a_batch_is_drawn_with_masks_boxes_and_phrases(tmp_path: Path) -> None:
    config = TrainingConfig.model_validate(
        {
            "data": {"uri": str(REPOSITORY / "tests" / "assets" / "lpbf")},
            "scratch": {"enable_segmentation": True, "resolution": 224, "train_batch_size": 2},
            "augment": {"resize_and_pad": False},
        }
    )
    with TrainLoader(open_dataset(config, "train"), config, micro_batch=2, steps=1) as loader:
        (batch,) = next(loader).micro_batches

    draw_batch(batch, tmp_path / "batch.png")

    picture = np.asarray(Image.open(tmp_path / "batch.png"))
    assert picture.shape == (224 + 2 * 12 + 8, 2 * 228 + 4, 3)
    red = (picture == (230, 60, 60)).all(axis=2)
    assert red[:228].sum() > 50
    assert (picture[228:] < 128).all(axis=2).sum() > 20
