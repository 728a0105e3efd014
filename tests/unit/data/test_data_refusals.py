"""Bad annotation files are refused before training, with exit code 11 and one clear message."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.errors import InvalidConfig, InvalidDataset, StorageDenied
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import open_dataset

Document = dict[str, Any]
Write = Callable[..., Path]
Configured = Callable[..., TrainingConfig]


def annotation(document: Document, place: int, **changes: Any) -> None:
    document["annotations"][place].update(changes)


def without(mapping: dict[str, Any], key: str) -> None:
    del mapping[key]


BAD_DOCUMENTS: dict[str, tuple[Callable[[Document], object], str]] = {
    "two images of one id": (lambda d: d["images"][1].update(id=1), "image id 1 is used twice"),
    "two annotations of one id": (lambda d: annotation(d, 1, id=1), "annotation id 1 is used twice"),
    "two categories of one id": (lambda d: d["categories"][1].update(id=1), "category id 1 is used twice"),
    "an id that is no number": (lambda d: d["images"][1].update(id="x"), "the id 'x'; ids are whole numbers"),
    "an annotation without id": (lambda d: without(d["annotations"][0], "id"), "annotation number 0 of the file"),
    "a category without a name": (lambda d: without(d["categories"][0], "name"), "category 1 has no name"),
    "a category of blanks": (lambda d: d["categories"][0].update(name="  "), "category 1 has no name"),
    "two categories of one name": (
        lambda d: d["categories"][1].update(name="cat "),
        "categories 1 and 2 are both named 'cat'",
    ),
    "no category": (lambda d: d.update(categories=[], annotations=[]), "there is no category"),
    "an unknown category": (
        lambda d: annotation(d, 0, category_id=9),
        "annotation 1 belongs to category 9, which is not in the file",
    ),
    "an unknown image": (
        lambda d: annotation(d, 0, image_id=9),
        "annotation 1 belongs to image 9, which is not in the file",
    ),
    "a polygon of two points": (
        lambda d: annotation(d, 0, segmentation=[[1, 2, 3, 4]]),
        "annotation 1 (image '1.jpg') has a polygon with 2 points; at least 3 are needed",
    ),
    "a polygon of an odd number": (
        lambda d: annotation(d, 0, segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        "a polygon with 7 coordinates",
    ),
    "a polygon of words": (
        lambda d: annotation(d, 0, segmentation=[["a", 2, 3, 4, 5, 6]]),
        "a polygon that is no list of numbers",
    ),
    "run lengths of another sum": (
        lambda d: annotation(d, 2, segmentation={"size": [40, 60], "counts": [0, 2399]}),
        "counts sum to 2399, but the image has 40 x 60 pixels, which is 2400",
    ),
    "compressed run lengths of another sum": (
        lambda d: annotation(d, 2, segmentation={"size": [40, 60], "counts": "0d];"}),
        "but the image has 40 x 60 pixels",
    ),
    "run lengths of another size": (
        lambda d: annotation(d, 2, segmentation={"size": [60, 40], "counts": [0, 2400]}),
        "an RLE of size [60, 40], but the image is [40, 60]",
    ),
    "negative run lengths": (
        lambda d: annotation(d, 2, segmentation={"size": [40, 60], "counts": [-1, 2401]}),
        "not all whole numbers from 0 on",
    ),
    "a segmentation that is a word": (lambda d: annotation(d, 0, segmentation="x"), "a segmentation that is str"),
    "a box of three numbers": (lambda d: annotation(d, 0, bbox=[1, 2, 3]), "annotation 1 has bbox [1, 2, 3]"),
    "a box of words": (lambda d: annotation(d, 0, bbox=["1", 2, 3, 4]), "write [x, y, width, height] in pixels"),
    "neither box nor mask": (
        lambda d: without(d["annotations"][1], "bbox"),
        "annotation 2 has neither bbox nor segmentation",
    ),
    "an image without size": (
        lambda d: without(d["images"][0], "width"),
        "image 1 ('1.jpg') has height 40 and width None",
    ),
    "an image without file": (lambda d: without(d["images"][0], "file_name"), "image 1 has no file_name"),
    "no image": (lambda d: d.update(images=[], annotations=[]), "the split is empty: there is no image"),
    "no annotation": (lambda d: d.update(annotations=[]), "the split is empty: no image has an annotation"),
    "only crowd regions": (
        lambda d: [annotation(d, place, iscrowd=1) for place in range(3)],
        "the split is empty: no image has an annotation",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_a_bad_file_is_refused_by_name(
    spoil: Callable[[Document], object], message: str, document: Document, write_split: Write, configured: Configured
) -> None:
    folder = write_split(document)
    spoil(document)
    write_split(document, images=False)

    with pytest.raises(InvalidDataset) as refusal:
        open_dataset(configured(), "train")
    assert refusal.value.code == ExitCode.INVALID_DATASET == 11
    assert message in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not readable as JSON"),
        ('{"images": [', "is not readable as JSON"),
        ('{"images": [NaN]}', "is not readable as JSON"),
        ("[]", "is JSON, but not COCO"),
        ('{"images": [], "annotations": {}}', "no list of annotations and no list of categories"),
    ],
)
def test_what_is_no_coco_is_refused(
    content: str, message: str, document: Document, write_split: Write, configured: Configured
) -> None:
    (write_split(document) / "_annotations.coco.json").write_text(content)

    with pytest.raises(InvalidDataset, match=message):
        open_dataset(configured(), "train")


def test_a_missing_annotation_file_is_refused(document: Document, write_split: Write, configured: Configured) -> None:
    (write_split(document) / "_annotations.coco.json").unlink()

    with pytest.raises(InvalidDataset, match=r"cannot be read \(No such file or directory\)"):
        open_dataset(configured(), "train")


def test_a_valid_folder_without_annotations_is_not_passed_over(
    document: Document, write_split: Write, configured: Configured, tmp_path: Path
) -> None:
    write_split(document)
    (tmp_path / "valid").mkdir()

    with pytest.raises(InvalidDataset, match=r"valid/_annotations\.coco\.json"):
        open_dataset(configured(hold_out=True), "valid")


def test_all_kinds_are_told_in_one_message(document: Document, write_split: Write, configured: Configured) -> None:
    for place in range(3):
        annotation(document, place, category_id=9)
    document["categories"][0]["name"] = ""
    write_split(document)

    with pytest.raises(InvalidDataset) as refusal:
        open_dataset(configured(), "train")
    assert "category 1 has no name" in str(refusal.value)
    assert "annotation 1 belongs to category 9, which is not in the file (2 more of this kind)" in str(refusal.value)


def test_segmentation_without_any_mask_is_refused(
    document: Document, write_split: Write, configured: Configured
) -> None:
    for entry in document["annotations"]:
        entry["segmentation"] = []
    write_split(document)

    assert open_dataset(configured(), "train").report.categories[0].masks == 0
    with pytest.raises(InvalidDataset, match="no annotation has a mask"):
        open_dataset(configured(scratch={"enable_segmentation": True}), "train")


@pytest.mark.parametrize("name", ["../outside.jpg", "a/../../outside.jpg", "..\\outside.jpg"])
def test_a_path_that_climbs_out_is_refused(
    name: str, document: Document, write_split: Write, configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "outside.jpg").write_bytes((write_split(document) / "1.jpg").read_bytes())
    document["images"][0]["file_name"] = name
    write_split(document, images=False)

    with pytest.raises(InvalidDataset, match=r"image 1: path .* leaves its folder through '\.\.'"):
        open_dataset(configured(), "train")


@pytest.mark.parametrize("name", ["/etc/passwd", "C:\\pictures\\1.jpg", "C:1.jpg"])
def test_an_absolute_path_is_refused(name: str, document: Document, write_split: Write, configured: Configured) -> None:
    write_split(document)
    document["images"][0]["file_name"] = name
    write_split(document, images=False)

    with pytest.raises(InvalidDataset, match="is absolute"):
        open_dataset(configured(), "train")


@pytest.mark.parametrize("link", ["1.jpg", "images/1.jpg", "images"])
def test_a_link_out_of_the_root_is_refused(
    link: str, document: Document, write_split: Write, configured: Configured, tmp_path: Path
) -> None:
    folder = write_split(document)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "1.jpg").rename(elsewhere / "1.jpg")
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(elsewhere if link == "images" else elsewhere / "1.jpg")

    with pytest.raises(InvalidDataset, match=r"leaves .* through a symbolic link"):
        open_dataset(configured(), "train")


def test_a_link_within_the_root_is_followed(document: Document, write_split: Write, configured: Configured) -> None:
    folder = write_split(document)
    (folder / "1.jpg").rename(folder / "real.jpg")
    (folder / "1.jpg").symlink_to("real.jpg")

    dataset = open_dataset(configured(), "train")

    assert dataset.read_image(1) == (folder / "real.jpg").read_bytes()


def test_a_missing_image_is_refused(document: Document, write_split: Write, configured: Configured) -> None:
    (write_split(document) / "2.jpg").unlink()

    with pytest.raises(InvalidDataset, match=r"image 2: file '2\.jpg' is neither in .* nor in its images/"):
        open_dataset(configured(), "train")


def test_a_pipe_in_place_of_an_image_counts_as_missing(
    document: Document, write_split: Write, configured: Configured
) -> None:
    path = write_split(document) / "2.jpg"
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(InvalidDataset, match="image 2"):
        open_dataset(configured(), "train")


def test_a_data_set_without_train_is_refused(configured: Configured) -> None:
    with pytest.raises(InvalidDataset, match="has no folder train/"):
        open_dataset(configured(), "train")


def test_a_folder_that_does_not_exist_is_denied(configured: Configured) -> None:
    with pytest.raises(StorageDenied, match=r"data\.uri '/nowhere' is no folder"):
        open_dataset(configured(data={"uri": "/nowhere"}), "train")


@pytest.mark.parametrize("uri", ["hf://a/b", "file://host/set"])
def test_an_address_that_is_no_folder_is_a_wrong_setting(uri: str, configured: Configured) -> None:
    with pytest.raises(InvalidConfig, match=r"data\.uri"):
        open_dataset(configured(data={"uri": uri}), "train")


def test_no_address_at_all_is_a_wrong_setting() -> None:
    with pytest.raises(InvalidConfig, match=r"data\.uri is not set"):
        open_dataset(TrainingConfig(), "train")


@pytest.mark.parametrize("section", [{"phrases": {"cow": ["moo"]}}, {"exhaustive": ["cow"]}])
def test_settings_that_name_an_unknown_category_are_wrong(
    section: dict[str, Any], document: Document, write_split: Write, configured: Configured
) -> None:
    write_split(document)

    with pytest.raises(
        InvalidConfig, match=r"names the category 'cow', which train does not have; it has \['cat', 'dog'\]"
    ):
        open_dataset(configured(data=section), "train")
