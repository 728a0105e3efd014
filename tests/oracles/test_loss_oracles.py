"""Losses, matchers and gradients against the upstream trainer's numbers."""

import pytest
import torch
from oracle_cases import OracleCase
from torch import Tensor

from sam3ft_api.training import LossConfig, LossWeights
from sam3ft_trainer.loss.levels import hungarian_levels, o2m_level, pack_targets
from sam3ft_trainer.loss.matching import MatchIndex, start_matching
from sam3ft_trainer.loss.points import UniformDraw
from sam3ft_trainer.loss.total import LossOutput, compute_loss
from sam3ft_trainer.tensors import GlobalCounts, Predictions, Targets

RELATIVE = 1e-5
ALWAYS_ZERO = ("presence_loss_o2m", "presence_dec_acc_o2m", "loss_semantic_presence", "presence_acc")
"""Names upstream reports and never fills with these settings; not reported here."""


def stack_levels(case: OracleCase, name: str, branch: str = "") -> Tensor:
    """Return [L, ...], earlier layers first and the final one last."""
    levels = [f"aux{i}" for i in range(case.settings["aux_layers"])] + ["final"]
    return torch.stack([case.tensors[f"in.{level}{branch}.{name}"] for level in levels])


def predictions_of(case: OracleCase) -> Predictions:
    o2m, tensors = case.settings["o2m"], case.tensors
    return Predictions(
        logits_LBQ=stack_levels(case, "pred_logits").squeeze(-1),
        boxes_LBQ4=stack_levels(case, "pred_boxes"),
        presence_LB=stack_levels(case, "presence_logit").squeeze(-1),
        logits_o2m_LBQ=stack_levels(case, "pred_logits", ".o2m").squeeze(-1) if o2m else None,
        boxes_o2m_LBQ4=stack_levels(case, "pred_boxes", ".o2m") if o2m else None,
        masks_BQhw=tensors.get("in.final.pred_masks"),
        masks_o2m_BQhw=tensors.get("in.final.o2m.pred_masks"),
        semantic_B1hw=tensors.get("in.final.semantic_seg"),
    )


def targets_of(case: OracleCase) -> Targets:
    valid = case.tensors.get("target.mask_valid")
    return Targets(
        boxes_N4=case.tensors["target.boxes"],
        num_boxes_B=case.tensors["target.num_boxes"],
        masks_NSS=case.tensors.get("target.masks"),
        mask_valid_N=None if valid is None else valid.bool(),
    )


def config_of(case: OracleCase) -> LossConfig:
    """Read every setting that can be chosen from the JSON; check the ones that are constants here."""
    stated = case.settings["loss_config"]
    assert (0.25, 2) == (stated["o2o_matcher"]["focal_alpha"], stated["o2o_matcher"]["focal_gamma"])
    assert stated["iabce"] == {"alpha": 0.25, "gamma": 2, "pad_n_queries": 200, "use_presence": True}
    assert stated["presence"] == {"alpha": 0.5, "gamma": 0.0}
    assert stated["mask_focal"] == {"alpha": 0.25, "gamma": 2.0}
    assert stated["semantic_focal"] == {"alpha": 0.6, "gamma": 2.0}
    points = case.settings.get("mask_point_sampling", {})
    return LossConfig(
        weights=LossWeights(**{name: stated["weights"][name] for name in LossWeights.model_fields}),
        pos_weight=case.settings["pos_weight"],
        o2m_weight=stated["o2m_weight"],
        o2m_alpha=stated["o2m_matcher"]["alpha"],
        o2m_threshold=stated["o2m_matcher"]["threshold"],
        o2m_topk=stated["o2m_matcher"]["topk"],
        cost_class=stated["o2o_matcher"]["cost_class"],
        cost_bbox=stated["o2o_matcher"]["cost_bbox"],
        cost_giou=stated["o2o_matcher"]["cost_giou"],
        mask_points=points.get("num_sample_points"),
        mask_oversample_ratio=points.get("oversample_ratio", 3),
        mask_importance_ratio=points.get("importance_sample_ratio", 0.75),
        mask_chunk=3,
    )


def counts_of(case: OracleCase) -> GlobalCounts:
    """Counts that make one process' sums upstream's.

    Upstream divides the box and mask sums of each of W ranks by (objects of all ranks) / W and averages the ranks'
    gradients, which is dividing by the objects of all ranks and adding; `normalizer_N` is that per-rank average.
    """
    targets = targets_of(case)
    filled = 0
    if targets.masks_NSS is not None:
        unions = targets.masks_NSS.split(targets.num_boxes_B.tolist())
        filled = sum(bool(union.any()) for union in unions)
    return GlobalCounts(case.settings["normalizer_N"], case.settings["pairs"], filled)


def match_sets(case: OracleCase) -> dict[str, Tensor]:
    """Return rows pair, query, object of every level from our matchers."""
    predictions, config = predictions_of(case), config_of(case)
    hungarian, o2m = hungarian_levels(predictions, config.o2m_weight), o2m_level(predictions, config.o2m_weight)
    packed = pack_targets(targets_of(case), hungarian.logits_GBQ)
    matches = start_matching(hungarian, o2m, packed, config, mask_valid_N=None)()
    groups = [(hungarian.suffixes, matches.hungarian.every)]
    groups += [(o2m.suffixes, matches.o2m.every)] if o2m and matches.o2m else []
    return {
        level_name(suffix): rows_of(index, level, case.settings["queries"])
        for suffixes, index in groups
        for level, suffix in enumerate(suffixes)
    }


def level_name(suffix: str) -> str:
    """Turn a term's suffix ("_aux_0_o2m") into the oracle's level ("aux0.o2m")."""
    stem = suffix.removesuffix("_o2m")
    return (f"aux{stem.removeprefix('_aux_')}" if stem else "final") + (".o2m" if suffix.endswith("_o2m") else "")


def rows_of(index: MatchIndex, level: int, queries: int) -> Tensor:
    slots, objects = index.slots[level], index.targets[level]
    return torch.stack([slots // queries, slots % queries, objects])


def stored_draw(case: OracleCase, level: str) -> UniformDraw:
    """Give the stored random numbers, in the order of our matches rather than of upstream's."""
    stored = case.tensors[f"match.{level}"].T.tolist()
    valid = targets_of(case).mask_valid_N
    assert valid is not None
    stored = [row for row in stored if valid[row[2]]]
    ours = [row for row in match_sets(case)[level].T.tolist() if valid[row[2]]]
    order = torch.tensor([stored.index(row) for row in ours], dtype=torch.int64)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        numbers = case.tensors[f"points.{level}.{name}"][order]
        assert shape == tuple(numbers.shape)
        return numbers

    return draw


def loss_of(case: OracleCase, predictions: Predictions) -> LossOutput:
    levels = [name for name in ("final", "final.o2m") if f"points.{name}.random" in case.tensors]
    draw = {name: stored_draw(case, name) for name in levels} or None
    return compute_loss(predictions, targets_of(case), counts_of(case), config_of(case), draw=draw)


@pytest.mark.oracle_cases("losses_*")
def test_every_term_and_the_total_equal_upstream(case: OracleCase) -> None:
    output = loss_of(case, predictions_of(case))

    expected = {name: value for name, value in case.settings["terms"].items() if not name_is_always_zero(name)}
    assert expected.keys() == output.terms.keys()
    for name, value in expected.items():
        assert value == pytest.approx(output.terms[name].item(), rel=RELATIVE, abs=1e-9), name
    assert case.settings["total"] == pytest.approx(output.total.item(), rel=RELATIVE)


@pytest.mark.oracle_cases("losses_*")
def test_names_that_are_not_reported_are_zero_upstream(case: OracleCase) -> None:
    left_out = {name: value for name, value in case.settings["terms"].items() if name_is_always_zero(name)}

    assert set(left_out.values()) <= {0.0}


def name_is_always_zero(name: str) -> bool:
    return name in ALWAYS_ZERO or (name.startswith("presence_") and name.endswith("_o2m"))


@pytest.mark.oracle_cases("losses_*")
def test_every_match_equals_upstream(case: OracleCase) -> None:
    ours = match_sets(case)

    groups = case.settings.get("identical_targets", [])
    stored = case.starting_with("match.")
    assert stored.keys() == ours.keys()
    for level, expected in stored.items():
        assert canonical(expected, groups) == canonical(ours[level], groups), level


def canonical(rows: Tensor, identical: list[list[int]]) -> list[tuple[int, int, int]]:
    """Return the matches in order, with interchangeable objects under one number."""
    same = {member: min(group) for group in identical for member in group}
    return sorted((pair, query, same.get(target, target)) for pair, query, target in rows.T.tolist())


@pytest.mark.oracle_cases("losses_*")
def test_gradients_of_the_total_equal_upstream(case: OracleCase) -> None:
    inputs = {name: value for name, value in case.tensors.items() if name.startswith("in.")}
    for value in inputs.values():
        value.requires_grad_()

    try:
        loss_of(case, predictions_of(case)).total.backward()

        for name, expected in case.starting_with("grad.").items():
            ours = inputs[f"in.{name}"].grad
            assert ours is not None, name
            assert (ours - expected).abs().max().item() <= RELATIVE * expected.abs().max().item(), name
    finally:
        for value in inputs.values():
            value.requires_grad_(requires_grad=False)
            value.grad = None
