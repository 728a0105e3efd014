"""Small made-up predictions and targets, near enough to each other that both matchers find something."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from sam3ft_trainer.tensors import Predictions, Targets


@dataclass(frozen=True)
class Scene:
    """Predictions with gradient, and their targets."""

    predictions: Predictions
    targets: Targets

    def leaves(self) -> dict[str, Tensor]:
        """Return the prediction tensors that exist, by name."""
        named = {field.name: getattr(self.predictions, field.name) for field in fields(self.predictions)}
        return {name: value for name, value in named.items() if value is not None}

    def pairs(self, chosen: list[int]) -> "Scene":
        """Return the scene of some pairs alone; gradients flow to this scene's tensors."""
        index = torch.tensor(chosen, dtype=torch.int64)
        by_layer = ("logits_LBQ", "boxes_LBQ4", "presence_LB", "logits_o2m_LBQ", "boxes_o2m_LBQ4")
        cut = {name: value.index_select(int(name in by_layer), index) for name, value in self.leaves().items()}
        starts = [0, *self.targets.num_boxes_B.cumsum(0).tolist()]
        objects = torch.tensor([n for pair in chosen for n in range(starts[pair], starts[pair + 1])], dtype=torch.int64)
        targets = self.targets
        return Scene(
            replace(self.predictions, **cut),
            Targets(
                boxes_N4=targets.boxes_N4[objects],
                num_boxes_B=targets.num_boxes_B[index],
                masks_NSS=None if targets.masks_NSS is None else targets.masks_NSS[objects],
                mask_valid_N=None if targets.mask_valid_N is None else targets.mask_valid_N[objects],
                exhaustive_B=None if targets.exhaustive_B is None else targets.exhaustive_B[index],
            ),
        )


SceneMaker = Callable[..., Scene]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_scene() -> SceneMaker:
    return _make_scene


def _make_scene(
    num_boxes: tuple[int, ...] = (3, 0, 1, 2),
    *,
    queries: int = 12,
    layers: int = 3,
    masks: bool = True,
    o2m: bool = True,
    size: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    exhaustive: tuple[bool, ...] | None = None,
) -> Scene:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def leaf(values: Tensor) -> Tensor:
        return values.to(dtype).requires_grad_()

    pairs, objects = len(num_boxes), sum(num_boxes)
    centers = torch.rand((objects, 2), generator=generator, dtype=torch.float64) * 0.6 + 0.2
    boxes_N4 = torch.cat([centers, torch.rand((objects, 2), generator=generator, dtype=torch.float64) * 0.2 + 0.1], 1)

    def boxes() -> Tensor:
        found = torch.rand((layers, pairs, queries, 4), generator=generator, dtype=torch.float64) * 0.4 + 0.2
        for pair, own in enumerate(boxes_N4.split(list(num_boxes))):
            for query in range(min(queries, 3 * len(own))):
                found[:, pair, query] = (own[query % len(own)] + 0.02 * normal(layers, 4)).clamp(0.01, 0.99)
        return leaf(found)

    return Scene(
        Predictions(
            logits_LBQ=leaf(normal(layers, pairs, queries)),
            boxes_LBQ4=boxes(),
            presence_LB=leaf(normal(layers, pairs)),
            logits_o2m_LBQ=leaf(normal(layers, pairs, queries)) if o2m else None,
            boxes_o2m_LBQ4=boxes() if o2m else None,
            masks_BQhw=leaf(normal(pairs, queries, 8, 8)) if masks else None,
            masks_o2m_BQhw=leaf(normal(pairs, queries, 8, 8)) if masks and o2m else None,
            semantic_B1hw=leaf(normal(pairs, 1, 8, 8)) if masks else None,
        ),
        Targets(
            boxes_N4=boxes_N4.float(),
            num_boxes_B=torch.tensor(num_boxes, dtype=torch.int64),
            masks_NSS=_masks(boxes_N4, size) if masks else None,
            mask_valid_N=torch.arange(objects) % 5 != 4 if masks else None,
            exhaustive_B=None if exhaustive is None else torch.tensor(exhaustive),
        ),
    )


def _masks(boxes_N4: Tensor, size: int) -> Tensor:
    """Draw each box as its mask; every fifth object has none."""
    masks = torch.zeros((len(boxes_N4), size, size), dtype=torch.uint8)
    for number, (center_x, center_y, width, height) in enumerate(boxes_N4.tolist()):
        if number % 5 != 4:
            rows = slice(int((center_y - height / 2) * size), int((center_y + height / 2) * size) + 1)
            masks[number, rows, int((center_x - width / 2) * size) : int((center_x + width / 2) * size) + 1] = 1
    return masks
