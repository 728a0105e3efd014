"""Parameter groups, layer decay and schedule against the upstream trainer's numbers."""

import math

import pytest
import torch
from oracle_cases import OracleCase
from transformers import Sam3Config, Sam3Model

from sam3ft_api.training import OptimConfig
from sam3ft_trainer.run.optim import build_optimizer, layer_scale, parameter_options
from sam3ft_trainer.run.schedule import learning_rate

EXACT = 1e-12


def model_of_sizes(sizes: dict[str, int]) -> Sam3Model:
    """Build the model that an `optim_params` case describes, on the meta device: only names and modules matter."""
    width, grid = sizes["d"], sizes["image"] // 14
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": sizes["vit"],
                "intermediate_size": sizes["vit_ff"],
                "num_hidden_layers": sizes["vit_layers"],
                "num_attention_heads": sizes["vit_heads"],
                "image_size": sizes["image"],
                "pretrain_image_size": sizes["pretrain"],
                "window_size": sizes["window"],
                "global_attn_indexes": sizes["global"],
            },
            "fpn_hidden_size": width,
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        },
        text_config={
            "vocab_size": sizes["vocab"],
            "hidden_size": sizes["text"],
            "intermediate_size": 2 * sizes["text"],
            "num_hidden_layers": sizes["text_layers"],
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "projection_dim": 16,
        },
        geometry_encoder_config={
            "hidden_size": width,
            "num_layers": sizes["geo_layers"],
            "num_attention_heads": sizes["heads"],
            "intermediate_size": sizes["ff"],
            "roi_size": sizes["roi"],
        },
        detr_encoder_config={
            "hidden_size": width,
            "num_layers": sizes["enc_layers"],
            "num_attention_heads": sizes["heads"],
            "intermediate_size": sizes["ff"],
        },
        detr_decoder_config={
            "hidden_size": width,
            "num_layers": sizes["dec_layers"],
            "num_queries": sizes["queries"],
            "num_attention_heads": sizes["heads"],
            "intermediate_size": sizes["ff"],
        },
        mask_decoder_config={"hidden_size": width, "num_attention_heads": sizes["heads"]},
    )
    with torch.device("meta"):
        return Sam3Model(config)


def config_of(case: OracleCase) -> OptimConfig:
    stated = case.settings["settings"]
    return OptimConfig(
        lr=stated["lr_transformer"],
        lr_vision_backbone=stated["lr_vision"],
        lr_language_backbone=stated["lr_language"],
        layer_decay=stated["layer_decay"],
        weight_decay=stated["wd"],
    )


@pytest.mark.oracle_cases("optim_params_*")
def test_every_parameter_has_upstreams_rate_and_weight_decay(case: OracleCase) -> None:
    actual = parameter_options(model_of_sizes(case.settings["sizes"]), config_of(case))

    assert set(case.settings["params"]) <= set(actual)
    for name, expected in case.settings["params"].items():
        assert expected["group"] == actual[name].group, name
        for key in ("base_lr", "lr_scale", "peak_lr", "weight_decay"):
            assert expected[key] == pytest.approx(getattr(actual[name], key), rel=EXACT, abs=0), (name, key)


@pytest.mark.oracle_cases("optim_params_*")
def test_the_optimizer_holds_those_options_for_every_parameter(case: OracleCase) -> None:
    model = model_of_sizes(case.settings["sizes"])
    optimizer = build_optimizer(model, config_of(case), fused=False)

    actual = {name: group for group in optimizer.param_groups for name in group["param_names"]}

    assert {name for name, _ in model.named_parameters()} == set(actual)
    for name, expected in case.settings["params"].items():
        assert expected["peak_lr"] == pytest.approx(actual[name]["peak_lr"], rel=EXACT, abs=0), name
        assert expected["weight_decay"] == actual[name]["weight_decay"], name


@pytest.mark.oracle_cases("optim_layer_decay*")
def test_layer_decay_equals_upstream(case: OracleCase) -> None:
    vit = "vision_encoder.backbone"
    for stated in case.settings["cases"]:
        layers, decay = stated["vit_layers"], stated["layer_decay"]
        expected = {
            f"{vit}.embeddings.patch_embeddings.projection.weight": stated["scale_patch_projection"],
            f"{vit}.layer_norm.weight": stated["scale_first_layer_norm"],
            f"{vit}.embeddings.position_embeddings": stated["scale_position_embeddings"],
            "vision_encoder.neck.fpn_layers.2.proj1.weight": stated["scale_neck"],
        }
        expected |= {f"{vit}.layers.{i}.mlp.fc1.weight": scale for i, scale in enumerate(stated["scale_by_layer"])}

        actual = {name: layer_scale(name, layers, decay) for name in expected}

        assert expected == pytest.approx(actual, rel=EXACT, abs=0)
        assert layers == len(stated["scale_by_layer"])


@pytest.mark.oracle_cases("optim_schedule*")
def test_learning_rates_equal_upstreams_formula_at_the_true_step(case: OracleCase) -> None:
    for stated in case.settings["schedules"]:
        steps = case.tensors[f"{stated['id']}.iteration"].tolist()
        expected = case.tensors[f"{stated['id']}.lr_exact_step"]
        settings = {key: stated[key] for key in ("warmup", "timescale", "cooldown")}

        actual = [learning_rate(stated["base_lr"], step, stated["total_steps"], **settings) for step in steps]

        defined = ~expected.isnan()  # upstream divides by zero where the run is as long as its warm-up
        assert expected[defined].tolist() == pytest.approx(
            [rate for rate, is_defined in zip(actual, defined.tolist(), strict=True) if is_defined], rel=1e-9, abs=0
        ), stated["id"]


@pytest.mark.oracle_cases("optim_schedule*")
def test_learning_rates_equal_upstreams_own_wherever_its_step_does_not_lag(case: OracleCase) -> None:
    for stated in case.settings["schedules"]:
        lagging = set(stated["stored_iterations_where_the_integer_step_lags"])
        settings = {key: stated[key] for key in ("warmup", "timescale", "cooldown")}
        steps = case.tensors[f"{stated['id']}.iteration"].tolist()
        expected = {
            step: rate
            for step, rate in zip(steps, case.tensors[f"{stated['id']}.lr"].tolist(), strict=True)
            if step not in lagging and not math.isnan(rate)
        }

        actual = {step: learning_rate(stated["base_lr"], step, stated["total_steps"], **settings) for step in expected}

        assert expected == pytest.approx(actual, rel=1e-9, abs=0), stated["id"]
