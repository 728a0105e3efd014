"""COCO segmentations are checked before they are decoded, and decode as the COCO tools do."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam3ft_trainer.data.masks import BadSegmentation, decode_runs, read_segmentation


def random_mask(seed: int, *, height: int = 31, width: int = 47) -> np.ndarray[Any, np.dtype[np.uint8]]:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 2, (height // 5 + 1, width // 5 + 1), dtype=np.uint8)
    return np.kron(coarse, np.ones((5, 5), dtype=np.uint8))[:height, :width]


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_decode_as_written(seed: int) -> None:
    mask = random_mask(seed)
    text = coco_mask.encode(np.asfortranarray(mask))["counts"]
    column_major = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate(([0], column_major)))).tolist()
    expected = np.diff([0, *changes, mask.size]).tolist()

    runs = decode_runs(text).tolist()

    assert expected == runs
    segmentation = read_segmentation({"size": [31, 47], "counts": text.decode()}, 31, 47)
    assert segmentation is not None
    assert np.array_equal(mask, segmentation.decode(31, 47))


def test_compressed_and_plain_run_lengths_mean_the_same() -> None:
    mask = random_mask(7)
    text = coco_mask.encode(np.asfortranarray(mask))["counts"]
    plain = read_segmentation({"size": [31, 47], "counts": decode_runs(text).tolist()}, 31, 47)

    assert plain is not None
    assert plain.counts == text
    assert plain.box_xywh(31, 47) == tuple(coco_mask.toBbox({"size": [31, 47], "counts": text}))


@pytest.mark.parametrize("text", [b"", b"0d];\x7f", b"0 1", b"0" + b"o" * 9, b"oooo"])
def test_run_lengths_that_no_tool_writes_are_refused(text: bytes) -> None:
    with pytest.raises(BadSegmentation):
        decode_runs(text)


def test_negative_runs_are_refused_even_when_they_sum_to_the_image() -> None:
    """The text 5O8 holds the runs 5, -1 and 8, which sum to the twelve pixels."""
    assert decode_runs(b"5O8").tolist() == [5, -1, 8]

    with pytest.raises(BadSegmentation, match="a run of -1 pixels"):
        read_segmentation({"size": [3, 4], "counts": "5O8"}, 3, 4)


def test_any_text_is_refused_or_covers_the_image_exactly() -> None:
    generator = np.random.default_rng(0)
    outcomes = set()
    for _ in range(2000):
        text = bytes(generator.integers(48, 112, generator.integers(1, 6), dtype=np.uint8))
        try:
            segmentation = read_segmentation({"size": [3, 4], "counts": text.decode("latin-1")}, 3, 4)
        except BadSegmentation:
            outcomes.add("refused")
        else:
            assert segmentation is not None
            assert segmentation.decode(3, 4).shape == (3, 4)
            outcomes.add("accepted")

    assert outcomes == {"refused", "accepted"}


def test_polygons_are_rasterised_as_the_coco_tools_do() -> None:
    polygons = [[1.5, 2, 20, 3, 11, 17.25], [22, 22, 30, 22, 30, 30, 22, 30]]
    parts = coco_mask.frPyObjects(polygons, 31, 47)

    segmentation = read_segmentation(polygons, 31, 47)

    assert segmentation is not None
    assert np.array_equal(coco_mask.decode(coco_mask.merge(parts)), segmentation.decode(31, 47))
    assert segmentation.box_xywh(31, 47) == (1.5, 2.0, 28.5, 28.0)


@pytest.mark.parametrize("value", [None, [], {}])
def test_no_segmentation_is_none(value: Any) -> None:
    assert read_segmentation(value, 3, 4) is None
