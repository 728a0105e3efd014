"""Points on which a mask is scored instead of on every pixel, denser where the prediction is undecided.

Kirillov et al., "PointRend", CVPR 2020 (arXiv 1912.08193): draw more candidates than needed, keep the most uncertain
ones (smallest |logit|), and fill up with points drawn anywhere.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sam3ft_api.training import LossConfig

UniformDraw = Callable[[str, tuple[int, ...]], Tensor]
"""Gives uniform numbers in 0..1 of a shape; the name ("candidates" or "random") says what for."""


def uniform_draw(device: torch.device, generator: torch.Generator | None) -> UniformDraw:
    """Return a source that draws float32 numbers from `generator`, or from torch's own where it is None.

    Numbers are drawn where the generator lives and brought to `device`, so that a generator on the CPU gives the same
    points on every device.
    """
    home = device if generator is None else generator.device

    def draw(_name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator, device=home).to(device, non_blocking=True)

    return draw


@torch.no_grad()
def uncertain_points(logits_Khw: Tensor, points: int, config: LossConfig, *, draw: UniformDraw) -> Tensor:
    """Choose `points` places per mask.

    Args:
        logits_Khw: predicted masks.
        points: P, how many places each mask gets.
        config: `mask_oversample_ratio` candidates for each point, `mask_importance_ratio` of the points chosen among
            them as the most uncertain ones.
        draw: source of uniform numbers.

    Returns:
        [K, P, 2], x and y in 0..1, the most uncertain first, then those drawn anywhere.
    """
    masks = len(logits_Khw)
    candidates = int(points * config.mask_oversample_ratio)
    uncertain = int(points * config.mask_importance_ratio)
    candidates_KC2 = draw("candidates", (masks, candidates, 2)).to(logits_Khw.dtype)
    doubt_KC = sample(logits_Khw, candidates_KC2).abs()
    chosen_KU = doubt_KC.topk(uncertain, dim=1, largest=False).indices
    kept_KU2 = candidates_KC2.gather(1, chosen_KU[:, :, None].expand(-1, -1, 2))
    random_KR2 = draw("random", (masks, points - uncertain, 2)).to(logits_Khw.dtype)
    return torch.cat([kept_KU2, random_KR2], 1)


def sample(values_Khw: Tensor, points_KP2: Tensor) -> Tensor:
    """Return [K, P] values read bilinearly at places in 0..1 (align_corners false, zero outside)."""
    places_KP12 = (2 * points_KP2 - 1)[:, :, None, :]
    return F.grid_sample(values_Khw[:, None], places_KP12, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def sample_targets(masks_NSS: Tensor, targets_K: Tensor, points_KP2: Tensor, *, chunk: int) -> Tensor:
    """Return [K, P] values of the objects' masks at the points, turning only `chunk` masks to float at a time."""
    parts = [
        sample(masks_NSS.index_select(0, targets_c).to(points_cP2.dtype), points_cP2)
        for targets_c, points_cP2 in zip(torch.split(targets_K, chunk), torch.split(points_KP2, chunk), strict=True)
    ]
    return torch.cat(parts)
