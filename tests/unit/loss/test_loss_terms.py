"""Single terms against numbers worked out by hand, and one whole example computed with the upstream code."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss.boxes import box_losses, iou_and_giou
from sam3ft_trainer.loss.total import LossOutput, compute_loss, local_counts
from sam3ft_trainer.tensors import Predictions, Targets


def test_overlap_equals_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand((40, 4), generator=generator, dtype=torch.float64) + 0.01 for _ in range(2))

    iou, giou = iou_and_giou(left[:, None], right[None])

    corners = [box_convert(boxes, "cxcywh", "xyxy") for boxes in (left, right)]
    torch.testing.assert_close(giou, generalized_box_iou(*corners))
    assert iou.min() >= 0
    assert iou.max() <= 1


def test_boxes_apart_have_a_negative_generalised_iou() -> None:
    iou, giou = iou_and_giou(torch.tensor([0.25, 0.5, 0.1, 0.1]), torch.tensor([0.75, 0.5, 0.1, 0.1]))

    assert 0.0 == iou.item()
    assert giou.item() == pytest.approx(-(0.06 - 0.02) / 0.06, rel=1e-6)


@pytest.mark.parametrize("side", [0.0, 1e-30])
def test_two_boxes_without_area_give_numbers(side: float) -> None:
    boxes = torch.tensor([[[0.5, 0.5, side, side]]], requires_grad=True)

    losses = box_losses(boxes, torch.tensor([[[0.5, 0.5, 0.0, 0.0]]]))
    (gradient,) = torch.autograd.grad(sum(losses), boxes)

    assert all(bool(value.isfinite().all()) for value in (*losses, gradient))


def worked_example() -> tuple[Predictions, Targets]:
    """Two pairs, eight queries, one earlier layer; objects in the first pair alone."""
    query, pair = torch.arange(8.0)[None], torch.arange(2.0)[:, None]

    def logits(shift: float) -> Tensor:
        return 0.5 * query - 2 + 0.1 * pair + shift

    def boxes(shift: float) -> Tensor:
        columns = (0.1 + 0.1 * query, 0.2 + 0.05 * query + 0.05 * pair, 0.1 + 0.02 * query, 0.15 + 0.01 * query)
        return torch.stack([column.expand(2, 8) for column in columns], -1) + 0.01 * shift

    x, y = torch.arange(4.0)[None, :], torch.arange(4.0)[:, None]
    plane = 0.3 * (x - 1.5) - 0.2 * (y - 1.5)
    masks = (0.25 * query - 1 + 0.5 * pair)[:, :, None, None] + plane
    truth = torch.zeros((2, 8, 8), dtype=torch.uint8)
    truth[0, 1:3, 0:3] = 1
    truth[1, 2:5, 3:6] = 1
    presence = torch.tensor([1.0, -0.5])
    return (
        Predictions(
            logits_LBQ=torch.stack([logits(0.2), logits(0.0)]),
            boxes_LBQ4=torch.stack([boxes(0.2), boxes(0.0)]),
            presence_LB=torch.stack([presence + 0.2, presence]),
            logits_o2m_LBQ=torch.stack([logits(0.5), logits(0.3)]),
            boxes_o2m_LBQ4=torch.stack([boxes(0.5), boxes(0.3)]),
            masks_BQhw=masks,
            masks_o2m_BQhw=masks,
            semantic_B1hw=masks[:, 3:4],
        ),
        Targets(
            boxes_N4=torch.tensor([[0.2, 0.25, 0.12, 0.16], [0.5, 0.4, 0.2, 0.2]]),
            num_boxes_B=torch.tensor([2, 0]),
            masks_NSS=truth,
            mask_valid_N=torch.tensor([True, True]),
        ),
    )


def worked_loss() -> LossOutput:
    predictions, targets = worked_example()
    return compute_loss(predictions, targets, local_counts(targets, segmentation=True), LossConfig())


UPSTREAM = {
    "loss_bbox": 0.015,
    "loss_giou": 0.0725,
    "loss_ce": 0.052643,
    "presence_loss": 0.196835,
    "loss_mask": 0.092577,
    "loss_dice": 0.794051,
    "loss_bbox_o2m": 0.042,
    "loss_giou_o2m": 0.199989,
    "loss_ce_o2m": 0.098593,
    "loss_mask_o2m": 0.185153,
    "loss_dice_o2m": 1.588102,
    "loss_bbox_aux_0": 0.019,
    "loss_giou_aux_0": 0.091339,
    "loss_ce_aux_0": 0.050340,
    "presence_loss_aux_0": 0.204409,
    "loss_bbox_aux_0_o2m": 0.05,
    "loss_giou_aux_0_o2m": 0.254472,
    "loss_ce_aux_0_o2m": 0.095255,
    "loss_semantic_seg": 0.079183,
    "loss_semantic_dice": 0.677044,
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_terms_of_the_worked_example_are_upstreams(name: str) -> None:
    assert UPSTREAM[name] == pytest.approx(worked_loss().terms[name].item(), abs=1.5e-6)


def test_the_total_of_the_worked_example_is_upstreams() -> None:
    assert worked_loss().total.item() == pytest.approx(165.591, abs=1e-3)
