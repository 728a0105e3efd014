"""Drawing the plan of one training image; deterministic in (seed, epoch, image id)."""

from sam3ft_api.training import AugmentConfig
from sam3ft_trainer.data.geometry import Plan
from sam3ft_trainer.data.seeds import Draws

STEP_AT_1008 = 32


def train_sides(size: int, min_scale: float) -> tuple[int, ...]:
    """Return the sides that a training image can be resized to.

    At 1008 px and the default smallest share these are upstream's 17 sides 480, 512, ..., 992: the full side is never
    drawn. Other resolutions scale both the start and the step; without room for a step the full side is left.

    Args:
        size: S, side of the model's input in pixels.
        min_scale: smallest side as a share of S.
    """
    step = STEP_AT_1008 * size / 1008
    start = min_scale * size
    sides: list[int] = []
    while start + len(sides) * step < size - 0.5:
        sides.append(max(1, round(start + len(sides) * step)))
    return tuple(dict.fromkeys(sides)) or (size,)


def draw_plan(config: AugmentConfig, draws: Draws, *, size: int, height: int, width: int) -> Plan:
    """Return what happens to one image in one epoch.

    Args:
        config: `augment` section.
        draws: of this image and epoch.
        size: S, side of the model's input in pixels.
        height: of the original image in pixels.
        width: of the original image in pixels.
    """
    sides = train_sides(size, config.min_scale) if config.resize_and_pad else (size,)
    side = sides[draws.below("side", len(sides))]
    return Plan(
        size=size,
        crop_xyxy=_draw_crop(config, draws, height=height, width=width),
        side=side,
        quarter_turns=draws.below("quarter turns", 4) if config.quarter_turns else 0,
        flip_x=draws.chance("flip x", config.horizontal_flip),
        flip_y=draws.chance("flip y", config.vertical_flip),
        color=_draw_color(config, draws),
        left=draws.below("left", size - side + 1),
        top=draws.below("top", size - side + 1),
    )


def _draw_crop(config: AugmentConfig, draws: Draws, *, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the tile of this epoch, and within it a crop with probability `config.crop`."""
    x1, x2 = _tile(config.tiles, draws.below("tile x", config.tiles), width)
    y1, y2 = _tile(config.tiles, draws.below("tile y", config.tiles), height)
    if draws.chance("crop", config.crop):
        x1, x2 = _part(draws, "x", x1, x2, config.crop_min_scale)
        y1, y2 = _part(draws, "y", y1, y2, config.crop_min_scale)
    return x1, y1, x2, y2


def _tile(tiles: int, number: int, length: int) -> tuple[int, int]:
    start, stop = number * length // tiles, (number + 1) * length // tiles
    return (start, stop) if stop > start else (0, length)


def _part(draws: Draws, axis: str, start: int, stop: int, min_scale: float) -> tuple[int, int]:
    share = min_scale + (1 - min_scale) * draws.uniform(f"crop size {axis}")
    length = max(1, round(share * (stop - start)))
    offset = start + draws.below(f"crop place {axis}", stop - start - length + 1)
    return offset, offset + length


def _draw_color(config: AugmentConfig, draws: Draws) -> tuple[float, float, float] | None:
    if config.color == 0:
        return None
    brightness, contrast, saturation = (
        1 + config.color * (2 * draws.uniform(purpose) - 1) for purpose in ("brightness", "contrast", "saturation")
    )
    return brightness, contrast, saturation
