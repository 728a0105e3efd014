"""Boxes and masks follow the pixels through every transform; resizing is upstream's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sam3ft_api.training import AugmentConfig
from sam3ft_trainer.data.augment import draw_plan, train_sides
from sam3ft_trainer.data.geometry import Plan, box_mask, clamp_boxes, place_boxes, plain_plan, scaled_areas
from sam3ft_trainer.data.seeds import Draws, hash64
from sam3ft_trainer.data.transforms import adjust_color, place_image, place_mask, resize_mask

HEIGHT, WIDTH = 60, 80


def test_the_sides_at_full_resolution_are_upstreams() -> None:
    assert tuple(range(480, 993, 32)) == train_sides(1008, 480 / 1008)


@pytest.mark.parametrize(("size", "min_scale"), [(28, 480 / 1008), (224, 480 / 1008), (1008, 1.0), (112, 0.01)])
def test_sides_of_other_settings_stay_between_the_smallest_share_and_the_full_side(size: int, min_scale: float) -> None:
    sides = train_sides(size, min_scale)

    assert sides == tuple(sorted(set(sides)))
    assert min(sides) >= max(1, round(min_scale * size))
    assert max(sides) <= size
    assert (max(sides) == size) == (min_scale == 1.0)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("crop", [(0, 0, WIDTH, HEIGHT), (10, 5, 70, 55)])
def test_box_mask_and_pixels_show_the_same_place(
    turns: int, flips: tuple[bool, bool], crop: tuple[int, int, int, int]
) -> None:
    plan = Plan(
        size=112, crop_xyxy=crop, side=80, quarter_turns=turns, flip_x=flips[0], flip_y=flips[1], left=20, top=5
    )
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:30, 16:24] = 1
    rgb = np.repeat(mask[..., None] * 255, 3, axis=2)

    pixels, placed = place_image(rgb, plan), place_mask(mask, plan)
    ((cx, cy, w, h),) = place_boxes(np.asarray([[16, 10, 24, 30]], dtype=np.float32), plan).tolist()

    assert ((pixels[0] > 127) != placed.bool()).sum() <= 4
    rows, columns = placed.any(dim=1).nonzero()[:, 0], placed.any(dim=0).nonzero()[:, 0]
    found = (columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1)
    box = (112 * (cx - w / 2), 112 * (cy - h / 2), 112 * (cx + w / 2), 112 * (cy + h / 2))
    assert np.abs(np.subtract(found, box)).max() <= 1.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("side", [37, 80, 200])
def test_resizing_the_touched_part_equals_resizing_the_whole_mask(seed: int, side: int) -> None:
    generator = np.random.default_rng(seed)
    mask = np.zeros((101, 83), dtype=np.uint8)
    top, left = generator.integers(0, 80), generator.integers(0, 60)
    patch = mask[top : top + generator.integers(1, 30), left : left + generator.integers(1, 30)]
    patch[:] = generator.integers(0, 2, patch.shape)

    resized = resize_mask(mask, side)

    whole = F.interpolate(
        torch.from_numpy(mask)[None, None].float(), size=(side, side), mode="bilinear", antialias=True
    )
    assert torch.equal(whole[0, 0].round().to(torch.uint8), resized)


def test_an_empty_mask_stays_empty() -> None:
    assert resize_mask(np.zeros((9, 7), dtype=np.uint8), 20).sum() == 0


def test_boxes_are_clamped_as_upstream_does() -> None:
    """A box that begins outside keeps its width: x, y, w and h are clamped one by one."""
    boxes, areas = clamp_boxes(np.asarray([[-8.0, 6, 16, 12], [70, 50, 40, 30]]), height=60, width=80)

    np.testing.assert_allclose(boxes, [[0, 6, 16, 18], [70, 50, 80, 60]], rtol=1e-6)
    np.testing.assert_allclose(areas, [0.2 * 0.2, 0.5 * 0.5], rtol=1e-6)
    assert (boxes.dtype, areas.dtype) == (np.float32, np.float32)


def test_the_size_filter_depends_on_the_drawn_side() -> None:
    """A 10 x 10 px box in a 4000 x 3000 px image is below upstream's bound at every side that is drawn."""
    boxes, areas = clamp_boxes(np.asarray([[100.0, 100, 10, 10], [100, 100, 20, 20]]), height=3000, width=4000)
    plan = Plan(size=1008, crop_xyxy=(0, 0, 4000, 3000), side=992)

    scaled = scaled_areas(boxes, areas, plan, height=3000, width=4000)

    assert (scaled < 1e-6).tolist() == [True, False]
    np.testing.assert_allclose(scaled[0], 100 / 12e6 * (992 / 4000) * (992 / 3000), rtol=1e-5)


def test_under_a_crop_only_the_visible_part_counts() -> None:
    boxes, areas = clamp_boxes(np.asarray([[0.0, 0, 20, 20], [50, 0, 20, 20]]), height=60, width=80)
    plan = Plan(size=112, crop_xyxy=(10, 10, 50, 50), side=40)

    scaled = scaled_areas(boxes, areas, plan, height=60, width=80)

    np.testing.assert_allclose(scaled, [10 * 10 / 1600, 0])


def test_the_stand_in_of_an_empty_mask_has_at_least_one_pixel() -> None:
    mask = box_mask(np.asarray([3.9, 4.2, 3.95, 7.1], dtype=np.float32), height=10, width=10)

    assert np.argwhere(mask).tolist() == [[4, 3], [5, 3], [6, 3]]


def test_neutral_colour_changes_nothing_and_brightness_brightens() -> None:
    pixels = torch.randint(0, 200, (3, 8, 8), dtype=torch.uint8)

    assert torch.equal(pixels, adjust_color(pixels, 1, 1, 1))
    assert torch.equal((pixels.float() * 1.2).round().to(torch.uint8), adjust_color(pixels, 1.2, 1, 1))
    assert adjust_color(pixels, 1, 1, 0).float().std(dim=0).max() < 1
    assert adjust_color(pixels, 1, 0, 1).unique().numel() == 1


def test_colour_leaves_the_padding_black() -> None:
    plan = Plan(size=20, crop_xyxy=(0, 0, 8, 8), side=10, color=(1.4, 0.7, 1.0), left=5, top=5)

    placed = place_image(np.full((8, 8, 3), 90, dtype=np.uint8), plan)

    assert placed[:, :5].max() == 0
    assert placed[:, 15:].max() == 0
    assert placed[:, 5:15, 5:15].min() > 90


@pytest.mark.parametrize(("height", "width", "size"), [(108, 192, 100), (20, 30, 28), (7, 5, 56), (28, 28, 28)])
def test_an_image_that_fills_its_place_is_written_there_as_torch_resizes_it(height: int, width: int, size: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    batch = torch.full((2, size, size, 3), 9, dtype=torch.uint8)

    placed = place_image(rgb, plain_plan(size, height=height, width=width), out_3SS=batch[1].permute(2, 0, 1))

    stored = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    expected = F.interpolate(stored, size=(size, size), mode="bilinear", antialias=True)[0]
    assert torch.equal(expected, placed)
    assert torch.equal(expected, batch[1].permute(2, 0, 1))
    assert batch[0].unique().tolist() == [9]


def test_evaluation_uses_the_whole_image_at_full_size() -> None:
    plan = plain_plan(56, height=60, width=80)

    assert plan == Plan(size=56, crop_xyxy=(0, 0, 80, 60), side=56)
    assert place_image(np.full((60, 80, 3), 7, dtype=np.uint8), plan).unique().tolist() == [7]


FULL = AugmentConfig(
    horizontal_flip=0.5, vertical_flip=0.5, quarter_turns=True, crop=0.5, crop_min_scale=0.3, tiles=3, color=0.4
)


def test_a_plan_is_a_function_of_seed_epoch_and_image() -> None:
    plans = {
        (seed, epoch, image): draw_plan(FULL, Draws(seed, epoch, image), size=112, height=60, width=80)
        for seed in range(3)
        for epoch in range(5)
        for image in range(20)
    }

    again = draw_plan(FULL, Draws(2, 4, 19), size=112, height=60, width=80)

    assert plans[2, 4, 19] == again
    assert len(set(plans.values())) == len(plans)


def test_drawn_plans_stay_within_their_bounds_and_reach_them() -> None:
    plans = [draw_plan(FULL, Draws(0, 0, image), size=112, height=61, width=79) for image in range(2000)]

    for plan in plans:
        x1, y1, x2, y2 = plan.crop_xyxy
        assert 0 <= x1 < x2 <= 79
        assert 0 <= y1 < y2 <= 61
        assert 0 <= plan.left <= 112 - plan.side
        assert 0 <= plan.top <= 112 - plan.side
        assert plan.color is not None
        assert all(0.6 <= factor <= 1.4 for factor in plan.color)
    assert {plan.side for plan in plans} == set(train_sides(112, 480 / 1008))
    assert {plan.quarter_turns for plan in plans} == {0, 1, 2, 3}
    assert 900 < sum(plan.flip_x for plan in plans) < 1100
    assert {0, 112 - min(plan.side for plan in plans)} <= {plan.left for plan in plans}


def test_tiles_cover_the_image_without_overlap_and_one_is_drawn_each_epoch() -> None:
    config = AugmentConfig(tiles=3)

    drawn = {draw_plan(config, Draws(0, epoch, 1), size=112, height=61, width=79).crop_xyxy for epoch in range(200)}

    assert len(drawn) == 9
    covered = np.zeros((61, 79), dtype=np.int64)
    for x1, y1, x2, y2 in drawn:
        covered[y1:y2, x1:x2] += 1
    assert (covered == 1).all()


def test_an_augmentation_that_is_switched_on_leaves_the_other_draws_alone() -> None:
    plain = draw_plan(AugmentConfig(), Draws(1, 2, 3), size=112, height=60, width=80)
    flipped = draw_plan(AugmentConfig(horizontal_flip=1.0, color=0.3), Draws(1, 2, 3), size=112, height=60, width=80)

    assert (plain.side, plain.left, plain.top) == (flipped.side, flipped.left, flipped.top)


def test_hashes_are_fixed_for_ever() -> None:
    assert hash64(123, 0, 7, "side") == 7251410168430665190
    assert 0 <= Draws(1, 2, 3).uniform("x") < 1
