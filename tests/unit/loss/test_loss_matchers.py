"""Assignments: optimal, deterministic, and robust against numbers that are none."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss import matching
from sam3ft_trainer.loss.levels import hungarian_levels, o2m_level, pack_targets
from sam3ft_trainer.loss.matching import (
    accepted_by_many,
    assignment_cost,
    pairs_accepted,
    solve_assignments,
    start_matching,
    upper_quantile,
)

CONFIG = LossConfig()


def solve(scene: Any, **settings: Any) -> matching.Matches:
    hungarian, o2m = hungarian_levels(scene.predictions, 2.0), o2m_level(scene.predictions, 2.0)
    packed = pack_targets(scene.targets, hungarian.logits_GBQ)
    return start_matching(hungarian, o2m, packed, CONFIG, **{"mask_valid_N": None} | settings)()


def test_the_assignment_has_the_least_total_cost_of_all() -> None:
    cost = np.random.default_rng(0).normal(size=(2, 5, 6))  # two levels, pairs of 3 and 2 objects, 6 queries

    slots, objects = solve_assignments(cost, [3, 2])

    for level in range(2):
        for pair, own in enumerate([[0, 1, 2], [3, 4]]):
            chosen = [(s - 6 * pair, o) for s, o in zip(slots[level], objects[level], strict=True) if o in own]
            least = min(
                sum(cost[level, o, q] for o, q in zip(own, queries, strict=True))
                for queries in permutations(range(6), len(own))
            )
            assert least == pytest.approx(sum(cost[level, o, q] for q, o in chosen))
            assert len(own) == len(chosen)


def test_matches_are_sorted_by_pair_then_query() -> None:
    cost = np.random.default_rng(1).normal(size=(3, 6, 8))

    slots, _ = solve_assignments(cost, [2, 0, 4])

    assert (np.diff(slots, axis=1) > 0).all()
    assert {0, 2} == set((slots // 8).flatten().tolist())


def test_with_more_objects_than_queries_every_query_is_used() -> None:
    cost = np.random.default_rng(2).normal(size=(1, 5, 3))

    slots, objects = solve_assignments(cost, [5])

    assert [[0, 1, 2]] == slots.tolist()
    assert 3 == len(set(objects[0].tolist()))


def test_equal_costs_are_resolved_the_same_way_every_time() -> None:
    cost = np.zeros((1, 3, 5))

    results = [solve_assignments(cost.copy(), [3]) for _ in range(5)]

    assert [[0, 1, 2]] == results[0][0].tolist()
    assert [[0, 1, 2]] == results[0][1].tolist()
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_costs_that_are_not_finite_are_survived_and_avoided_where_possible(poison: float) -> None:
    cost = np.ones((1, 2, 3))
    cost[0, 0, 0] = poison

    slots, objects = solve_assignments(cost, [2])

    assert 2 == len(slots[0]) == len(set(objects[0].tolist()))
    assert ((0, 0) in zip(slots[0].tolist(), objects[0].tolist(), strict=True)) == (poison == -np.inf)


def test_no_object_means_no_match() -> None:
    slots, objects = solve_assignments(np.zeros((3, 0, 4)), [0, 0])

    assert (3, 0) == slots.shape == objects.shape


@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 8, 16, 199, 200])
@pytest.mark.parametrize("topk", [1, 4, 7])
def test_the_quantile_is_torchs(queries: int, topk: int) -> None:
    score = torch.rand((6, queries), generator=torch.Generator().manual_seed(queries), dtype=torch.float64)

    found = upper_quantile(score, topk)

    expected = torch.quantile(score, max(0.0, 1 - topk / queries), dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_at_most_topk_queries_above_the_threshold_are_accepted(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((2, 3), queries=30)
    level = o2m_level(scene.predictions, 2.0)
    assert level is not None
    packed = pack_targets(scene.targets, level.logits_GBQ)

    accepted = accepted_by_many(level, packed, CONFIG)
    strict = accepted_by_many(level, packed, LossConfig(o2m_threshold=0.95))

    assert 0 < accepted.sum()
    assert (accepted.sum(1) <= CONFIG.o2m_topk).all()
    assert 0 == strict.sum()


def test_a_query_accepted_for_several_objects_is_scored_for_the_last() -> None:
    accepted = np.array([[True, False, True], [True, True, False], [False, False, True]])

    slots, objects = pairs_accepted(accepted, [2, 1], 3)
    *_, scored_slots, scored_objects, _, _ = matching._host_group(slots, objects, None)

    assert [[0, 0, 1, 2, 5]] == slots.tolist()
    assert [[0, 1, 1, 0, 2]] == objects.tolist()
    assert [[0, 1, 2, 5]] == scored_slots.tolist()
    assert [[1, 1, 0, 2]] == scored_objects.tolist()


def test_only_matches_of_the_first_level_with_a_mask_go_to_the_mask_losses(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((3, 2))

    matches = solve(scene, mask_valid_N=scene.targets.mask_valid_N).hungarian

    assert matches.masks is not None
    keep = matches.every.targets[0] != 4
    assert torch.equal(matches.every.slots[0][keep], matches.masks.slots)
    assert torch.equal(matches.every.targets[0][keep], matches.masks.targets)


def test_costs_are_the_same_bits_in_one_piece_or_in_many(
    make_scene: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = hungarian_levels(make_scene((7, 4), dtype=torch.float32).predictions, 2.0)
    packed = pack_targets(make_scene((7, 4)).targets, levels.logits_GBQ)

    whole = assignment_cost(levels, packed, CONFIG)
    monkeypatch.setattr(matching, "COSTS_AT_ONCE", 3 * levels.logits_GBQ.shape[0] * levels.logits_GBQ.shape[2])
    pieces = assignment_cost(levels, packed, CONFIG)

    assert torch.equal(whole, pieces)


def test_the_cost_is_the_weighted_sum_of_its_parts(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((1,), layers=1, o2m=False, queries=2)
    levels = hungarian_levels(scene.predictions, 2.0)
    packed = pack_targets(scene.targets, levels.logits_GBQ)

    def cost(**weights: float) -> Tensor:
        base = {"cost_class": 0.0, "cost_bbox": 0.0, "cost_giou": 0.0}
        return assignment_cost(levels, packed, LossConfig(**base | weights))

    prob = scene.predictions.logits_LBQ.detach().sigmoid()[0]
    expected = -0.25 * (1 - prob) ** 2 * prob.log() + 0.75 * prob**2 * (1 - prob).log()
    torch.testing.assert_close(cost(cost_class=1.0)[0], expected)
    parts = 2 * cost(cost_class=1.0) + 5 * cost(cost_bbox=1.0) + 2 * cost(cost_giou=1.0)
    torch.testing.assert_close(assignment_cost(levels, packed, CONFIG), parts)
