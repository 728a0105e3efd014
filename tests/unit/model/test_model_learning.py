"""Random weights of a preset learn: the loss of four synthetic images falls, and their boxes are found."""

import pytest
import torch
from torch import Tensor

from sam3ft_api.training import LossConfig, ModelConfig
from sam3ft_trainer.loss.total import compute_loss, local_counts
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.presets import build_preset, preset_config
from sam3ft_trainer.model.text import Tokenizer, byte_tokenizer
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Targets

SIDE = 112


def pictures() -> tuple[Tensor, Targets]:
    """Four images, each with two bright and two dark squares; pairs are (image, bright), (image, dark)."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, SIDE, SIDE, generator=generator) * 0.1
    boxes = []
    for image in pixels:
        corners = torch.randperm(9, generator=generator)[:4]
        for number, corner in enumerate(corners.tolist()):
            x, y, side = 37 * (corner % 3) + 4, 37 * (corner // 3) + 4, 20 + 3 * number
            image[:, y : y + side, x : x + side] = 0.9 if number < 2 else -0.9
            boxes.append([(x + side / 2) / SIDE, (y + side / 2) / SIDE, side / SIDE, side / SIDE])
    return pixels, Targets(torch.tensor(boxes), torch.full((8,), 2))


@pytest.mark.slow
def test_a_tiny_preset_learns_four_pictures(no_dropout: ModelConfig):
    torch.manual_seed(0)
    sam3 = build_preset(preset_config("tiny-learn"), seed=0)
    freeze_parts(sam3, (), task="detection", geometry_cls=True)
    model = TrainingModel(sam3, no_dropout).train()
    ids, mask, _ = Tokenizer(byte_tokenizer()).encode(["bright", "dark"])
    pixels, targets = pictures()
    pairs = (torch.arange(8) // 2, torch.arange(8) % 2)
    counts = local_counts(targets, segmentation=False)
    trained = [p for p in sam3.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    losses = []

    for _ in range(100):
        found = model(pixels, ids, mask, *pairs, o2m=True, masks=False)
        loss = compute_loss(found, targets, counts, LossConfig()).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.5 * losses[0]
    best = found.logits_LBQ[-1].topk(2, dim=1).indices
    boxes = found.boxes_LBQ4[-1].gather(1, best[:, :, None].expand(-1, -1, 4)).detach()
    distance = (boxes[:, :, None, :] - targets.boxes_N4.view(8, 1, 2, 4)).abs().amax(-1).amin(1)
    assert float((distance < 0.03).float().mean()) > 0.85
