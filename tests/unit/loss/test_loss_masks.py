"""Mask losses: chunks, bounded memory, sampled points."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss.mask_terms import dice_losses, focal_means
from sam3ft_trainer.loss.masks import mask_sums
from sam3ft_trainer.loss.matching import MatchIndex
from sam3ft_trainer.loss.points import sample, uncertain_points, uniform_draw
from sam3ft_trainer.loss.total import compute_loss, local_counts

CPU = torch.device("cpu")
NO_DRAW = uniform_draw(CPU, None)


def random_masks(count: int, size: int, seed: int = 0) -> tuple[Tensor, MatchIndex, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((1, count, 8, 8), generator=generator, dtype=torch.float64).requires_grad_()
    masks = torch.zeros((count, size, size), dtype=torch.uint8)
    masks[:, size // 4 : size // 2, size // 4 :] = 1
    index = torch.arange(count)
    return logits, MatchIndex(index, index.flip(0)), masks


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_the_size_of_a_chunk_changes_neither_losses_nor_gradients(chunk: int) -> None:
    logits, matches, masks = random_masks(7, 32)

    def both(mask_chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        focal, dice = mask_sums(logits, matches, masks, LossConfig(mask_chunk=mask_chunk), draw=NO_DRAW)
        (gradient,) = torch.autograd.grad(focal + dice, logits)
        return focal, dice, gradient

    torch.testing.assert_close(both(chunk), both(7), rtol=1e-13, atol=1e-15)


def test_chunks_equal_the_loss_written_down_plainly() -> None:
    logits, matches, masks = random_masks(5, 32)

    focal, dice = mask_sums(logits, matches, masks, LossConfig(mask_chunk=2), draw=NO_DRAW)

    large = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)[0].flatten(1)
    target = masks.flip(0).flatten(1).double()
    prob = large.sigmoid()
    plain = torch.where(target > 0, -0.25 * (1 - prob) ** 2 * prob.log(), -0.75 * prob**2 * (1 - prob).log())
    torch.testing.assert_close(focal, plain.mean(1).sum(), rtol=1e-12, atol=0)
    overlap = (2 * (prob * target).sum(1) + 1) / (prob.sum(1) + target.sum(1) + 1)
    torch.testing.assert_close(dice, (1 - overlap).sum(), rtol=1e-12, atol=0)


def bytes_kept(scene: Any) -> int:
    """Return how many bytes autograd keeps between forward and backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counts = local_counts(scene.targets, segmentation=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute_loss(scene.predictions, scene.targets, counts, LossConfig(mask_chunk=2))
    return sum(kept.values())


def test_what_is_kept_for_backward_does_not_grow_with_the_resolution_of_the_masks(
    make_scene: Callable[..., Any],
) -> None:
    small, large = make_scene((3, 2), size=16), make_scene((3, 2), size=256)
    targets = [scene.targets.masks_NSS.numel() for scene in (small, large)]

    grown = bytes_kept(large) - bytes_kept(small)

    assert grown <= targets[1] - targets[0]  # the uint8 masks themselves, which the batch holds anyway


def test_certain_places_are_left_for_uncertain_ones() -> None:
    logits = torch.full((1, 32, 32), 9.0, dtype=torch.float64)
    logits[0, :, 16] = 0.0
    config = LossConfig(mask_points=64, mask_oversample_ratio=3, mask_importance_ratio=0.75)

    points = uncertain_points(logits, 64, config, draw=uniform_draw(CPU, torch.Generator().manual_seed(0)))

    doubt = sample(logits, points).abs()[0]
    assert (1, 64, 2) == points.shape
    assert doubt[:48].mean() < doubt[48:].mean() / 1.2
    assert torch.equal(doubt[:48], doubt[:48].sort().values)


def test_many_points_come_near_the_loss_of_all_pixels() -> None:
    logits, matches, masks = random_masks(4, 64)
    everywhere = LossConfig(mask_points=200_000, mask_oversample_ratio=1, mask_importance_ratio=0)
    draw = uniform_draw(CPU, torch.Generator().manual_seed(1))

    sampled = mask_sums(logits, matches, masks, everywhere, draw=draw)
    exact = mask_sums(logits, matches, masks, LossConfig(), draw=draw)

    assert exact[0].item() == pytest.approx(sampled[0].item(), rel=0.03)
    assert exact[1].item() == pytest.approx(sampled[1].item(), rel=0.03)


def test_points_repeat_with_the_seed_of_the_generator(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    counts = local_counts(scene.targets, segmentation=True)

    def total(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        config = LossConfig(mask_points=16)
        return compute_loss(scene.predictions, scene.targets, counts, config, generator=generator).total.item()

    assert total(3) == total(3)
    assert total(3) != total(4)


def test_places_outside_read_zero_and_places_between_are_mixed() -> None:
    values = torch.tensor([[[1.0, 3.0]]])

    read = sample(values, torch.tensor([[[0.25, 0.5], [0.5, 0.5], [0.75, 0.5], [0.0, 0.5]]]))

    assert [1.0, 2.0, 3.0, 0.5] == read[0].tolist()


def test_perfect_masks_cost_nearly_nothing_and_inverted_ones_much() -> None:
    target = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    sure = (2 * target - 1) * 20

    assert 0.0 == pytest.approx((focal_means(sure, target, 0.25) + dice_losses(sure, target)).item(), abs=1e-6)
    assert focal_means(-sure, target, 0.25).item() == pytest.approx(20 * (0.25 * 2 + 0.75 * 2) / 4, rel=1e-4)
    assert dice_losses(-sure, target).item() == pytest.approx(1 - 1 / 5, rel=1e-4)
