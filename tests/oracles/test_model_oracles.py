"""The composed training forward against outputs of the public upstream model."""

import json
from typing import Any

import pytest
import torch
from oracle_cases import OracleCase
from safetensors.torch import load_file
from torch import Tensor
from transformers import Sam3Config, Sam3Model

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.fusion import fuse
from sam3ft_trainer.model.prompt import Prompt
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions

TOLERANCE = 1e-5


def build(case: OracleCase, override: dict[str, Tensor] | None = None) -> TrainingModel:
    """The model of a case, with the settings that its JSON names."""
    settings: dict[str, Any] = case.settings["settings"]
    config = Sam3Config.from_dict(json.loads(case.neighbour(case.settings["config_file"]).read_text()))
    config.vision_config.backbone_config.layer_norm_eps = settings["vit_layer_norm_eps"]
    sam3 = Sam3Model(config)
    weights = load_file(case.neighbour(case.settings["weights_file"]))
    sam3.load_state_dict(weights | (override or {}), strict=True)
    model_config = ModelConfig(
        geometry_cls=settings["geometry_cls_token"],
        dropout=settings["dropout"],
        attention_dropout=settings["dropout"],
        drop_path=settings["drop_path"],
    )
    return TrainingModel(sam3, model_config).train(settings["training_mode"])


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


def named_outputs(found: Predictions) -> dict[str, Tensor]:
    outputs = {
        "pred_logits": found.logits_LBQ,
        "pred_boxes": found.boxes_LBQ4,
        "presence_logits": found.presence_LB,
        "pred_logits_o2m": found.logits_o2m_LBQ,
        "pred_boxes_o2m": found.boxes_o2m_LBQ4,
        "pred_masks": found.masks_BQhw,
        "pred_masks_o2m": found.masks_o2m_BQhw,
        "semantic_seg": found.semantic_B1hw,
    }
    return {name: value for name, value in outputs.items() if value is not None}


@pytest.mark.oracle_cases("model_forward_*", kind="model_forward")
def test_training_forward_equals_upstream(case: OracleCase) -> None:
    expected = case.starting_with("out.")
    model = build(case)

    actual = named_outputs(
        run(model, case.tensors, o2m=case.settings["settings"]["dac"], masks="semantic_seg" in expected)
    )

    assert set(expected) == set(actual)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.oracle_cases("model_forward_*", kind="model_forward")
def test_intermediate_features_equal_upstream(case: OracleCase) -> None:
    model, tensors = build(case), case.tensors
    img_idx, txt_idx = tensors["in.img_idx"], tensors["in.txt_idx"]

    images = model.encode_images(tensors["in.pixel_values"], masks=False)
    text = model.encode_text(tensors["in.input_ids"], tensors["in.attention_mask"])
    actual = {"fpn_level2": images.levels[-1], "text_features": text.features_TKd * text.valid_TK.unsqueeze(-1)}
    prompt = Prompt(text.features_TKd[txt_idx], text.valid_TK[txt_idx])
    if images.geometry_I1d is not None:
        actual["geometry_token"] = images.geometry_I1d[img_idx]
        prompt = prompt.with_token(actual["geometry_token"])
    tokens = images.levels[-1][img_idx].flatten(2).transpose(1, 2)
    actual["encoder_output"] = fuse(
        model.sam3.detr_encoder, tokens, images.position_1Kd, prompt, model.regularization, model.checkpointing
    )

    for name, value in case.starting_with("mid.").items():
        torch.testing.assert_close(actual[name].reshape(value.shape), value, rtol=0, atol=TOLERANCE)


@pytest.mark.oracle_cases("model_forward_*", kind="model_forward_presence")
def test_presence_logits_beyond_ten_keep_value_and_gradient(case: OracleCase) -> None:
    base = OracleCase(case.neighbour(f"{case.settings['base_case']}.json"))
    model = build(base, case.starting_with("override."))
    expected = case.tensors["out.presence_logits"]

    actual = run(model, base.tensors, o2m=base.settings["settings"]["dac"], masks=False).presence_LB
    (case.tensors["weighting"] * actual).sum().backward()

    assert expected.abs().max() > 10
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    parameters = dict(model.sam3.named_parameters())
    for name, gradient in case.starting_with("grad.").items():
        found = parameters[name].grad
        torch.testing.assert_close(found, gradient, rtol=0, atol=TOLERANCE * float(gradient.abs().max()))
