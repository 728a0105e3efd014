"""Reading COCO, resize, pad, targets and batch assembly equal the upstream trainer's."""

import json

import pytest
import torch
from oracle_cases import OracleCase
from torch import Tensor
from torch.nn import functional as F

from sam3ft_api.training import DataConfig
from sam3ft_trainer.data.coco import parse_coco
from sam3ft_trainer.data.collate import collate
from sam3ft_trainer.data.geometry import Plan
from sam3ft_trainer.data.index import CocoIndex
from sam3ft_trainer.data.phrases import build_phrase_book
from sam3ft_trainer.data.report import ProblemLog
from sam3ft_trainer.data.sample import Sample, filtered_question, place_question
from sam3ft_trainer.data.transforms import place_image
from sam3ft_trainer.tensors import Batch

CASES = pytest.mark.oracle_cases("transforms_*")


@CASES
def test_pixels_are_within_one_grey_level(case: OracleCase) -> None:
    batch = assembled(case)
    stride = case.settings["stored_pixel_stride"]

    pixels = batch.pixels_I3SS[..., ::stride, ::stride].int()
    assert pixels.shape == case.tensors["out.pixels_uint8"].shape
    assert (pixels - case.tensors["out.pixels_uint8"].int()).abs().max() <= 1
    mean = batch.pixels_I3SS.float().mean(dim=(2, 3))
    torch.testing.assert_close(
        mean, torch.tensor(case.settings["mean_pixel_0_255_per_image_full_resolution"]), atol=0.1, rtol=0
    )


@CASES
def test_boxes_and_their_numbers_are_equal(case: OracleCase) -> None:
    targets = assembled(case).targets

    assert targets.num_boxes_B.tolist() == case.tensors["out.num_boxes"].tolist()
    torch.testing.assert_close(targets.boxes_N4, case.tensors["out.boxes"], atol=1e-6, rtol=0)


@CASES
def test_masks_are_equal_pixel_by_pixel(case: OracleCase) -> None:
    targets = assembled(case).targets
    stride = case.settings["stored_pixel_stride"]

    assert targets.masks_NSS is not None
    assert targets.mask_valid_N is not None
    assert targets.mask_valid_N.tolist() == case.tensors["out.mask_valid"].bool().tolist()
    assert differing_share_of_boundary(targets.masks_NSS[:, ::stride, ::stride], case.tensors["out.masks"]) == 0
    counts = targets.masks_NSS.flatten(1).sum(dim=1)
    assert counts.tolist() == case.settings["mask_pixel_counts_full_resolution"]


@CASES
def test_pairs_are_assembled_in_the_same_order(case: OracleCase) -> None:
    batch = assembled(case)

    assert list(batch.phrases) == case.settings["phrases"]
    assert batch.img_idx_B.tolist() == case.tensors["out.img_idx"].tolist()
    assert batch.txt_idx_B.tolist() == case.tensors["out.txt_idx"].tolist()
    assert list(batch.category_ids) == case.settings["category_id_per_pair"]


def assembled(case: OracleCase) -> Batch:
    """Run the case through the project's own parts, with the drawn numbers that the case names."""
    index = parse_coco(json.dumps(case.settings["coco"]).encode(), ProblemLog(), where=case.name)
    samples = [
        sample(case, index, place=place, image_id=entry["id"])
        for place, entry in enumerate(case.settings["coco"]["images"])
    ]
    return collate(samples, size=case.settings["target_size"], masks=True)


def sample(case: OracleCase, index: CocoIndex, *, place: int, image_id: int) -> Sample:
    settings = case.settings
    row = index.row_of_image(image_id)
    height, width = index.sizes_hw[row].tolist()
    left, top = (settings["pad_left_top"] or [[0, 0]] * (place + 1))[place]
    plan = Plan(
        size=settings["target_size"],
        crop_xyxy=(0, 0, width, height),
        side=settings["resize_to"],
        left=left,
        top=top,
    )
    book = build_phrase_book(index, DataConfig(max_phrases_per_image=10_000), strict=True)
    questions = book.evaluation_questions(index, row)
    if settings["phase"] == "train":
        solid = [question._replace(rows=question.rows[~index.is_crowd[question.rows]]) for question in questions]
        questions = tuple(filtered_question(index, question, plan, min_area=1e-6) for question in solid)
    pairs = tuple(place_question(index, question, plan, masks=True) for question in questions)
    return Sample(image_id, place_image(case.tensors[f"in.image.{place}"].numpy(), plan), pairs)


def differing_share_of_boundary(masks: Tensor, expected: Tensor) -> float:
    """Return the pixels that differ as a share of the pixels next to an edge of the expected masks."""
    if not len(expected):
        return 0.0
    padded = F.pad(expected[:, None].float(), (1, 1, 1, 1), mode="replicate")
    edge = (F.max_pool2d(padded, 3, 1) != -F.max_pool2d(-padded, 3, 1)).sum()
    return float((masks != expected).sum() / max(1, int(edge)))
