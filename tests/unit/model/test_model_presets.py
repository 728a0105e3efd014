"""Presets: sizes, reproducible random weights that learn, and a processor to save with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Sam3Processor

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.preset_sizes import SIZES, preset_names, preset_resolution
from sam3ft_trainer.model.presets import build_preset, grid_reference_boxes, preset_config
from sam3ft_trainer.model.processor import build_processor
from sam3ft_trainer.model.text import Tokenizer, byte_tokenizer
from sam3ft_trainer.model.training import TrainingModel


@pytest.mark.parametrize(
    ("name", "side", "parameters"),
    [
        ("tiny-nano", 28, 61_982),
        ("tiny-micro", 112, 244_882),
        ("tiny-small", 224, 1_110_570),
        ("tiny", 224, 3_852_914),
    ],
)
def test_presets_have_their_sizes(name: str, side: int, parameters: int):
    sam3 = build_preset(preset_config(name), seed=0)

    assert (side, parameters) == (preset_resolution(name), sam3.num_parameters())
    assert name in preset_names()


def test_the_real_preset_has_the_published_architecture():
    config = preset_config("sam3")

    backbone = config.vision_config.backbone_config
    assert (32, 1024, [7, 15, 23, 31]) == (
        backbone.num_hidden_layers,
        backbone.hidden_size,
        backbone.global_attn_indexes,
    )
    assert (1008, 200) == (config.image_size, config.detr_decoder_config.num_queries)


@pytest.mark.parametrize("name", list(SIZES))
def test_every_tiny_preset_runs_at_its_resolution(name: str):
    side = preset_resolution(name)
    model = TrainingModel(build_preset(preset_config(name), seed=0), ModelConfig()).train()
    ids, mask, _ = Tokenizer(byte_tokenizer()).encode(["cell"])
    first = torch.tensor([0])

    found = model(torch.zeros(1, 3, side, side), ids, mask, first, first, o2m=True, masks=True)

    assert all(value.isfinite().all() for value in (found.logits_LBQ, found.boxes_LBQ4, found.masks_BQhw))


def test_weights_depend_on_the_seed_alone_and_leave_the_random_state_alone():
    config = preset_config("tiny-nano")
    state = torch.get_rng_state()
    first = build_preset(config, seed=7).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1234)

    second, other = (build_preset(config, seed=seed).state_dict() for seed in (7, 8))

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["text_projection.weight"], other["text_projection.weight"])


def test_every_parameter_is_set(monkeypatch: pytest.MonkeyPatch):
    """Whatever the memory held before, no parameter keeps it."""
    config = preset_config("tiny-nano")
    import sam3ft_trainer.model.presets as module  # noqa: PLC0415 - to replace what it allocates with

    plain = module.allocate

    def poisoned(config: Any) -> Any:
        sam3 = plain(config)
        with torch.no_grad():
            for parameter in sam3.parameters():
                parameter.fill_(torch.nan)
        return sam3

    monkeypatch.setattr(module, "allocate", poisoned)

    assert all(p.isfinite().all() for p in build_preset(config, seed=0).parameters())


@pytest.mark.parametrize("queries", [1, 4, 10, 50, 200])
def test_reference_boxes_are_distinct_and_cover_the_image(queries: int):
    boxes = grid_reference_boxes(queries)

    assert ((queries, 4), torch.float32) == (tuple(boxes.shape), boxes.dtype)
    assert queries == len({tuple(row) for row in boxes.tolist()})
    assert bool(((boxes > 0) & (boxes < 1)).all())
    if queries >= 10:
        assert bool((boxes[:, :2].amin(0) < 0.2).all() and (boxes[:, :2].amax(0) > 0.8).all())


def test_the_first_predictions_are_the_grid(no_dropout: ModelConfig):
    model = TrainingModel(build_preset(preset_config("tiny-learn"), seed=0), no_dropout).eval()
    ids, mask, _ = Tokenizer(byte_tokenizer()).encode(["cell"])
    first = torch.tensor([0])

    boxes = model(torch.zeros(1, 3, 112, 112), ids, mask, first, first, o2m=False, masks=False).boxes_LBQ4

    torch.testing.assert_close(boxes[-1, 0], grid_reference_boxes(10), rtol=0, atol=1e-5)


def test_the_processor_reads_back_and_prepares_what_training_feeds(tmp_path: Path):
    tokenizer = Tokenizer(byte_tokenizer())
    build_processor(tokenizer, 112).save_pretrained(tmp_path)
    image = torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8)

    processor = Sam3Processor.from_pretrained(tmp_path)
    prepared = processor(images=image, text="red cell", return_tensors="pt")

    torch.testing.assert_close(prepared["pixel_values"][0], (image / 255 - 0.5) / 0.5, rtol=0, atol=1e-6)
    ids, mask, _ = tokenizer.encode(["red cell"])
    assert torch.equal(mask, prepared["attention_mask"])
    assert torch.equal(ids[mask.bool()], prepared["input_ids"][mask.bool()])


def test_a_query_begins_by_looking_into_its_box():
    decoder = build_preset(preset_config("tiny-micro"), seed=0).detr_decoder
    box = torch.tensor([[[0.5, 0.5, 0.25, 0.25]]])

    bias_1HQK = decoder._get_rpb_matrix(box, (16, 16))

    grid = bias_1HQK[0, :, 0].view(-1, 16, 16)
    assert float(grid[:, 6:10, 6:10].abs().max()) == 0.0
    assert float(grid[:, :3].max()) < -1.0
    assert (grid[:, 8, :6].diff(dim=1) > 0).all()
