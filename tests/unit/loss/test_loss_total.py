"""The loss of a step: its split into micro-batches, what it waits for, and what it does with nothing to score."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sam3ft_api.training import LossConfig
from sam3ft_trainer.loss import matching
from sam3ft_trainer.loss.total import LossOutput, compute_loss, local_counts, sum_counts
from sam3ft_trainer.loss.transfer import Download
from sam3ft_trainer.tensors import GlobalCounts, Targets

CONFIG = LossConfig(mask_chunk=2)


def counts_of(scene: Any) -> GlobalCounts:
    return local_counts(scene.targets, segmentation=scene.targets.masks_NSS is not None)


def loss_of(scene: Any, config: LossConfig = CONFIG, **settings: Any) -> LossOutput:
    return compute_loss(scene.predictions, scene.targets, counts_of(scene), config, **settings)


def gradients(scene: Any, total: Tensor) -> dict[str, Tensor]:
    leaves = scene.leaves()
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


SPLITS = {
    "two halves": [[0, 1, 2], [3, 4]],
    "one pair each": [[0], [1], [2], [3], [4]],
    "an empty micro-batch first": [[], [0, 1, 2, 3, 4]],
    "a pair without objects alone": [[0], [1], [2, 3, 4]],
    "another order, with empty ones between": [[4, 1], [], [0], [], [3, 2]],
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("masks", [True, False], ids=["segmentation", "detection"])
def test_shares_of_any_split_add_up_to_the_loss_of_the_whole_batch(
    make_scene: Callable[..., Any], split: list[list[int]], *, masks: bool
) -> None:
    whole = make_scene((3, 0, 1, 2, 1), masks=masks, exhaustive=(True, True, False, True, True))
    counts = counts_of(whole)
    parts = [whole.pairs(chosen) for chosen in split]

    expected = loss_of(whole)
    shares = [compute_loss(part.predictions, part.targets, counts, CONFIG) for part in parts]

    assert counts == sum_counts(counts_of(part) for part in parts)
    torch.testing.assert_close(sum(share.total for share in shares), expected.total, rtol=1e-12, atol=0)
    for name, value in expected.terms.items():
        if not name.startswith("ce_f1"):  # a mean of the parts' F1, not the F1 of the whole
            torch.testing.assert_close(sum(share.terms[name] for share in shares), value, rtol=1e-12, atol=1e-14)
    summed = gradients(whole, sum(share.total for share in shares))
    for name, gradient in gradients(whole, expected.total).items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-12, atol=1e-14)


def test_counts_of_one_micro_batch_alone_give_another_loss(make_scene: Callable[..., Any]) -> None:
    whole = make_scene((3, 0, 1, 2))
    parts = [whole.pairs([0, 1]), whole.pairs([2, 3])]

    separately = sum(loss_of(part).total for part in parts)

    assert abs(separately - loss_of(whole).total) > 0.1


class _Watch(TorchDispatchMode):
    """Fails on operations that make the host wait for the values of a device tensor."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(self.FORBIDDEN), f"{name} waits for the device"
        if name == "index":
            assert all(index is None or index.dtype == torch.int64 for index in args[1]), "a bool index waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("points", [None, 16], ids=["full resolution", "points"])
def test_a_step_reads_from_the_device_once(
    make_scene: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, points: int | None
) -> None:
    scene = make_scene()
    counts = counts_of(scene)
    reads: list[Download] = []

    class Counted(Download):
        def arrays(self) -> list[Any]:
            reads.append(self)
            return super().arrays()

    monkeypatch.setattr(matching, "Download", Counted)

    with _Watch():
        output = compute_loss(scene.predictions, scene.targets, counts, LossConfig(mask_points=points, mask_chunk=2))
        output.total.backward()

    assert 1 == len(reads)


def test_a_read_in_the_step_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), _Watch():
        torch.ones(()).item()


@pytest.mark.parametrize("num_boxes", [(), (0, 0), (2, 0)], ids=["no pair", "no object", "one empty pair"])
def test_every_prediction_gets_a_gradient_whatever_there_is_to_score(
    make_scene: Callable[..., Any], num_boxes: tuple[int, ...]
) -> None:
    scene = make_scene(num_boxes)

    found = gradients(scene, loss_of(scene).total)

    assert {name: value.shape for name, value in scene.leaves().items()} == {
        name: value.shape for name, value in found.items()
    }
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_without_a_pair_the_loss_is_zero(make_scene: Callable[..., Any]) -> None:
    output = loss_of(make_scene(()))

    assert 0.0 == output.total.item()
    terms = {name: value.item() for name, value in output.terms.items()}
    assert dict.fromkeys(terms, 0.0) == terms


def test_without_an_object_only_presence_is_left(make_scene: Callable[..., Any]) -> None:
    output = loss_of(make_scene((0, 0)))

    nonzero = {name for name, value in output.terms.items() if value.item() and name.startswith(("loss", "presence_l"))}
    assert {"presence_loss", "presence_loss_aux_0", "presence_loss_aux_1"} == nonzero


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["logits_LBQ", "boxes_LBQ4", "boxes_o2m_LBQ4", "presence_LB"])
def test_a_value_that_is_not_finite_makes_the_total_so_and_raises_nothing(
    make_scene: Callable[..., Any], name: str, poison: float
) -> None:
    scene = make_scene()
    with torch.no_grad():
        scene.leaves()[name][:, 0] = poison

    total = loss_of(scene).total

    assert not total.isfinite()


def test_losses_are_float32_whatever_the_model_ran_in(make_scene: Callable[..., Any]) -> None:
    scene = make_scene(dtype=torch.bfloat16)
    single = make_scene(dtype=torch.bfloat16)
    single_predictions = single.predictions.float()
    counts = counts_of(scene)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = compute_loss(scene.predictions, scene.targets, counts, CONFIG)
    expected = compute_loss(single_predictions, single.targets, counts, CONFIG)

    assert torch.float32 == half.total.dtype
    assert expected.total.item() == half.total.item()


def test_unmatched_queries_of_a_partly_annotated_pair_are_left_alone(make_scene: Callable[..., Any]) -> None:
    complete = make_scene((2, 2), o2m=False, layers=1)
    partial = make_scene((2, 2), o2m=False, layers=1, exhaustive=(False, True))

    free = gradients(partial, loss_of(partial).total)["logits_LBQ"]
    held = gradients(complete, loss_of(complete).total)["logits_LBQ"]

    assert 2 == torch.count_nonzero(free[0, 0])
    assert 12 == torch.count_nonzero(held[0, 0])
    assert torch.equal(held[0, 1], free[0, 1])


def test_a_partly_annotated_pair_has_no_union_mask(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((2, 2), exhaustive=(False, True))

    found = gradients(scene, loss_of(scene).total)["semantic_B1hw"]

    assert 1.0 == counts_of(scene).num_mask_pairs
    assert 0 == torch.count_nonzero(found[0])
    assert 64 == torch.count_nonzero(found[1])


def test_a_pair_whose_objects_have_no_mask_has_no_union_mask(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((4, 1))  # the fifth object has no mask

    found = gradients(scene, loss_of(scene).total)["semantic_B1hw"]

    assert 64 == torch.count_nonzero(found[0])
    assert 0 == torch.count_nonzero(found[1])


def test_presence_is_unknown_where_a_partly_annotated_pair_has_no_object(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((0, 0, 1), exhaustive=(False, True, False))

    found = gradients(scene, loss_of(scene).total)["presence_LB"]

    assert [0, 3, 3] == [int(torch.count_nonzero(found[:, pair])) for pair in range(3)]


def test_an_object_without_area_is_matched_but_does_not_make_its_pair_present(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((1,), masks=False, o2m=False, layers=1)
    scene.targets.boxes_N4[:, 2] = 0

    output = loss_of(scene)

    assert output.terms["loss_bbox"] > 0
    assert 0.0 == output.terms["loss_ce"].item()
    assert float(scene.predictions.presence_LB[0, 0].detach() <= 0) == output.terms["presence_dec_acc"].item()


def test_terms_carry_upstreams_names(make_scene: Callable[..., Any]) -> None:
    names = set(loss_of(make_scene(layers=2)).terms)

    per_level = {
        term + level
        for term in ("loss_bbox", "loss_giou", "loss_ce", "ce_f1")
        for level in ("", "_o2m", "_aux_0", "_aux_0_o2m")
    }
    presence = {term + level for term in ("presence_loss", "presence_dec_acc") for level in ("", "_aux_0")}
    masks = {"loss_mask", "loss_dice", "loss_mask_o2m", "loss_dice_o2m"}
    semantic = {"loss_semantic_seg", "loss_semantic_dice", "miou_semantic_seg"}
    assert per_level | presence | masks | semantic == names


def test_weights_of_the_configuration_scale_their_terms(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    only_boxes = LossConfig(weights=dict.fromkeys(CONFIG.weights.model_dump(), 0.0) | {"loss_bbox": 3.0})

    output = loss_of(scene, only_boxes)

    boxes = sum(value for name, value in output.terms.items() if name.startswith("loss_bbox"))
    torch.testing.assert_close(output.total, 3.0 * boxes * len(scene.targets.num_boxes_B) ** 0.5)


def test_masks_predicted_without_masks_to_compare_with_are_refused(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    bare = Targets(scene.targets.boxes_N4, scene.targets.num_boxes_B)

    with pytest.raises(ValueError, match="the targets hold none"):
        compute_loss(scene.predictions, bare, counts_of(scene), CONFIG)


def test_targets_of_another_number_of_pairs_are_refused(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((2, 1))
    other = make_scene((2,)).targets

    with pytest.raises(ValueError, match="predictions of 2 pairs cannot be scored against targets of 1 pairs"):
        compute_loss(scene.predictions, other, counts_of(scene), CONFIG)


def test_counts_are_objects_pairs_and_pairs_with_a_filled_mask(make_scene: Callable[..., Any]) -> None:
    scene = make_scene((3, 0, 1, 1))  # the fifth object has no mask

    assert GlobalCounts(5.0, 4.0, 2.0) == local_counts(scene.targets, segmentation=True)
    assert GlobalCounts(5.0, 4.0, 0.0) == local_counts(scene.targets, segmentation=False)


def test_the_same_inputs_give_the_same_bits(make_scene: Callable[..., Any]) -> None:
    runs = []
    for _ in range(3):
        scene = make_scene(dtype=torch.float32)
        total = loss_of(scene).total
        runs.append([total.detach(), *gradients(scene, total).values()])

    assert all(
        torch.equal(first, other) for other_run in runs[1:] for first, other in zip(runs[0], other_run, strict=True)
    )
