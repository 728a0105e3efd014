"""Six optimizer steps of the whole trainer - model, losses, clipping, AdamW - against the upstream trainer's."""

import json
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from oracle_cases import OracleCase
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Sam3Config, Sam3Model

from sam3ft_api.training import LossConfig, LossWeights, ModelConfig, OptimConfig
from sam3ft_trainer.loss.total import LossOutput, compute_loss, local_counts
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run.optim import build_optimizer
from sam3ft_trainer.run.schedule import learning_rate
from sam3ft_trainer.run.update import clip_and_check
from sam3ft_trainer.tensors import Targets

LOSS, GRAD_NORM, TENSOR_GRADIENT, FINAL_NORM = 1e-4, 1e-3, 1e-4, 1e-4
"""Relative tolerances."""
LATER_TERM = 1e-3
"""Relative tolerance of a single term after the first update: a small one may drift more than the total does."""
FINAL_WEIGHT = 2e-4
"""Absolute tolerance."""


@dataclass(frozen=True)
class Step:
    total: float
    terms: dict[str, float]
    grad_norm: float
    lr_transformer: float


@dataclass(frozen=True)
class Trajectory:
    steps: list[Step]
    gradient_norms: dict[str, float]
    """Of step 0, before clipping."""
    initial: dict[str, Tensor]
    final: dict[str, Tensor]


def model_of(case: OracleCase) -> TrainingModel:
    stated = case.settings["settings"]
    assert (0.0, 0.0) == (stated["dropout"], stated["drop_path"])
    config = Sam3Config.from_dict(json.loads(case.neighbour(case.settings["config_file"]).read_text()))
    sam3 = Sam3Model(config)
    sam3.load_state_dict(load_file(case.neighbour(case.settings["initial_weights_file"])), strict=True)
    settings = ModelConfig(
        dropout=0.0,
        attention_dropout=0.0,
        drop_path=0.0,
        o2m=stated["dac"],
        geometry_cls=stated["geometry_cls_token"],
    )
    task = "segmentation" if case.settings["mode"] == "seg" else "detection"
    freeze_parts(sam3, (), task=task, geometry_cls=settings.geometry_cls)
    return TrainingModel(sam3, settings).train()


def loss_config(case: OracleCase) -> LossConfig:
    stated = case.settings["loss_config"]
    return LossConfig(
        weights=LossWeights(**{name: stated["weights"][name] for name in LossWeights.model_fields}),
        pos_weight=case.settings["settings"]["pos_weight"],
        o2m_weight=stated["o2m_weight"],
        o2m_alpha=stated["o2m_matcher"]["alpha"],
        o2m_threshold=stated["o2m_matcher"]["threshold"],
        o2m_topk=stated["o2m_matcher"]["topk"],
        cost_class=stated["o2o_matcher"]["cost_class"],
        cost_bbox=stated["o2o_matcher"]["cost_bbox"],
        cost_giou=stated["o2o_matcher"]["cost_giou"],
    )


def optim_config(case: OracleCase) -> OptimConfig:
    stated = case.settings["optimizer"]
    return OptimConfig(
        lr=stated["lr_transformer"],
        lr_vision_backbone=stated["lr_vision"],
        lr_language_backbone=stated["lr_language"],
        layer_decay=stated["layer_decay"],
        weight_decay=stated["wd"],
        betas=tuple(stated["betas"]),
        eps=stated["eps"],
        warmup=stated["warmup"],
        timescale=stated["timescale"],
        cooldown=stated["cooldown"],
        clip_norm=stated["clip"],
    )


def loss_of(case: OracleCase, model: TrainingModel, batch: dict[str, Tensor]) -> LossOutput:
    segmentation = case.settings["mode"] == "seg"
    valid = batch.get("in.target.mask_valid")
    targets = Targets(
        boxes_N4=batch["in.target.boxes"],
        num_boxes_B=batch["in.target.num_boxes"],
        masks_NSS=batch["in.target.masks"] if segmentation else None,
        mask_valid_N=valid.bool() if segmentation and valid is not None else None,
    )
    predictions = model(
        batch["in.pixel_values"],
        batch["in.input_ids"],
        batch["in.attention_mask"],
        batch["in.img_idx"],
        batch["in.txt_idx"],
        o2m=case.settings["settings"]["dac"],
        masks=segmentation,
    )
    return compute_loss(predictions, targets, local_counts(targets, segmentation=segmentation), loss_config(case))


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@cache
def trajectory(case: OracleCase) -> Trajectory:
    """Run the case's steps: forward, backward, rates, clip, update."""
    torch.set_num_threads(1)
    model, config = model_of(case), optim_config(case)
    batch = load_file(case.neighbour(case.settings["batch_file"]))
    optimizer = build_optimizer(model.sam3, config, fused=False)
    initial, steps, gradient_norms = copies(model.sam3), [], {}
    for step in range(len(case.settings["steps"])):
        optimizer.zero_grad(set_to_none=True)
        output = loss_of(case, model, batch)
        output.total.backward()
        if step == 0:
            grads = {name: parameter.grad for name, parameter in model.sam3.named_parameters()}
            gradient_norms = {name: grad.norm().item() for name, grad in grads.items() if grad is not None}
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                group["peak_lr"],
                step,
                case.settings["schedule"]["total_steps"],
                warmup=config.warmup,
                timescale=config.timescale,
                cooldown=config.cooldown,
            )
        norm, finite = clip_and_check(model.parameters(), config.clip_norm)
        assert finite
        optimizer.step()
        rate = next(group["lr"] for group in optimizer.param_groups if group["name"] == "transformer")
        terms = {name: value.item() for name, value in output.terms.items()}
        steps.append(Step(output.total.item(), terms, norm.item(), rate))
    return Trajectory(steps, gradient_norms, initial, copies(model.sam3))


@pytest.mark.oracle_cases("trajectory_*")
def test_losses_and_rates_of_every_step_equal_upstream(case: OracleCase) -> None:
    actual = trajectory(case)

    for step, (expected, found) in enumerate(zip(case.settings["steps"], actual.steps, strict=True)):
        assert expected["total_loss"] == pytest.approx(found.total, rel=LOSS)
        assert expected["lr_transformer"] == pytest.approx(found.lr_transformer, rel=1e-9)
        for name, value in expected["terms"].items():
            if name.startswith(("loss_", "presence_loss")) and value != 0.0:
                assert value == pytest.approx(found.terms[name], rel=LOSS if step == 0 else LATER_TERM, abs=1e-6), name


@pytest.mark.oracle_cases("trajectory_*")
def test_gradient_norms_equal_upstream(case: OracleCase) -> None:
    actual = trajectory(case)

    for expected, found in zip(case.settings["steps"], actual.steps, strict=True):
        assert expected["grad_norm_before_clip"] == pytest.approx(found.grad_norm, rel=GRAD_NORM)
    noise = set(case.settings["params_with_rounding_noise_gradient"])
    zero = set(case.settings["params_with_zero_gradient"])
    for name, expected in case.settings["grad_l2_norm_step0_unclipped"].items():
        if name in zero:
            assert actual.gradient_norms[name] == 0.0, name
        elif name not in noise:
            assert expected == pytest.approx(actual.gradient_norms[name], rel=TENSOR_GRADIENT), name


@pytest.mark.oracle_cases("trajectory_*")
def test_final_weights_equal_upstream(case: OracleCase) -> None:
    actual = trajectory(case)

    noise = set(case.settings["params_with_rounding_noise_gradient"])
    final = case.starting_with("final.")
    assert final.keys() - noise
    for name in final.keys() - noise:
        assert (final[name] - actual.final[name]).abs().max().item() <= FINAL_WEIGHT, name
    for name in case.settings["final_l2_norm"].keys() - noise:
        expected = case.settings["final_l2_norm"][name]
        assert expected == pytest.approx(actual.final[name].norm().item(), rel=FINAL_NORM, abs=1e-6), name


@pytest.mark.oracle_cases("trajectory_*")
def test_weights_move_as_far_as_upstream(case: OracleCase) -> None:
    """The weights' own tolerance is of the size of the movement; this one is not."""
    actual = trajectory(case)

    noise = set(case.settings["params_with_rounding_noise_gradient"])
    for name in case.settings["moved_l2_norm"].keys() - noise:
        moved = (actual.final[name] - actual.initial[name]).norm().item()
        assert case.settings["moved_l2_norm"][name] == pytest.approx(moved, rel=1e-2, abs=1e-5), name


@pytest.mark.oracle_cases("trajectory_*")
def test_weights_without_a_gradient_stay(case: OracleCase) -> None:
    actual = trajectory(case)

    assert case.settings["params_without_gradient"]
    for name in case.settings["params_without_gradient"]:
        assert name not in actual.gradient_norms
        assert torch.equal(actual.initial[name], actual.final[name]), name
