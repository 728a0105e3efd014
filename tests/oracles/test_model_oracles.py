"""The composed training forward against outputs of the public upstream model."""

from pathlib import Path

import pytest
import torch
from oracle_cases import OracleCase
from safetensors.torch import load_file
from torch import Tensor
from transformers import Sam3Config, Sam3Model

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.prompt import Prompt
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions

NO_DROPOUT = ModelConfig(dropout=0.0, attention_dropout=0.0, drop_path=0.0)
TOLERANCE = 1e-5


def build(config_file: Path, weights_file: Path, override: dict[str, Tensor] | None = None) -> TrainingModel:
    import json

    config = Sam3Config.from_dict(json.loads(config_file.read_text()))
    sam3 = Sam3Model(config)
    sam3.load_state_dict(load_file(weights_file) | (override or {}), strict=True)
    return TrainingModel(sam3, NO_DROPOUT).train()


def run(model: TrainingModel, tensors: dict[str, Tensor], *, o2m: bool, masks: bool) -> Predictions:
    return model(
        tensors["in.pixel_values"],
        tensors["in.input_ids"],
        tensors["in.attention_mask"],
        tensors["in.img_idx"],
        tensors["in.txt_idx"],
        o2m=o2m,
        masks=masks,
    )


def named_outputs(found: Predictions) -> dict[str, Tensor | None]:
    return {
        "pred_logits": found.logits_LBQ,
        "pred_boxes": found.boxes_LBQ4,
        "presence_logits": found.presence_LB,
        "pred_logits_o2m": found.logits_o2m_LBQ,
        "pred_boxes_o2m": found.boxes_o2m_LBQ4,
        "pred_masks": found.masks_BQhw,
        "pred_masks_o2m": found.masks_o2m_BQhw,
        "semantic_seg": found.semantic_B1hw,
    }


def is_forward(case: OracleCase) -> bool:
    return case.settings["kind"] == "model_forward"


@pytest.mark.oracle_cases("model_forward_*")
def test_training_forward_equals_upstream(case: OracleCase) -> None:
    if not is_forward(case):
        assert case.settings["kind"] == "model_forward_presence"  # its own test below
        return
    model = build(case.neighbour(case.settings["config_file"]), case.neighbour(case.settings["weights_file"]))
    expected = case.starting_with("out.")
    settings = case.settings["settings"]
    assert settings["geometry_cls_token"]

    actual = named_outputs(run(model, case.tensors, o2m=settings["dac"], masks="semantic_seg" in expected))

    assert set(expected) == {name for name, value in actual.items() if value is not None}
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.oracle_cases("model_forward_*")
def test_intermediate_features_equal_upstream(case: OracleCase) -> None:
    if not is_forward(case):
        return
    model = build(case.neighbour(case.settings["config_file"]), case.neighbour(case.settings["weights_file"]))
    middle, tensors = case.starting_with("mid."), case.tensors
    img_idx, txt_idx = tensors["in.img_idx"], tensors["in.txt_idx"]
    from sam3ft_trainer.model.fusion import fuse

    images = model.encode_images(tensors["in.pixel_values"], masks=False)
    text = model.encode_text(tensors["in.input_ids"], tensors["in.attention_mask"])
    assert images.geometry_I1d is not None
    prompt = Prompt(text.features_TKd[txt_idx], text.valid_TK[txt_idx]).with_token(images.geometry_I1d[img_idx])
    tokens = images.levels[-1][img_idx].flatten(2).transpose(1, 2)
    fused = fuse(model.sam3.detr_encoder, tokens, images.position_1Kd, prompt, model._rates, model.checkpointing)
    actual = {
        "fpn_level2": images.levels[-1],
        "text_features": text.features_TKd * text.valid_TK.unsqueeze(-1),
        "geometry_token": images.geometry_I1d[img_idx],
        "encoder_output": fused,
    }

    for name, value in middle.items():
        torch.testing.assert_close(actual[name].reshape(value.shape), value, rtol=0, atol=TOLERANCE)
