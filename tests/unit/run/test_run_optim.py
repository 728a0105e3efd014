"""Which parameter is trained how; rates and decay are compared with upstream's in tests/oracles."""

from collections import Counter

import pytest
import torch
from torch import nn

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import OptimConfig
from sam3ft_trainer.run.optim import build_optimizer, parameter_options


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.group_norm = nn.GroupNorm(2, 4)
        self.fc = nn.Linear(4, 4)


class _Named(nn.Module):
    """A tree of modules under the names of the real model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        backbone = nn.Module()
        backbone.layers = nn.ModuleList([_Block(), _Block()])
        backbone.embeddings = nn.Module()
        backbone.embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 4, 4))
        self.vision_encoder = nn.Module()
        self.vision_encoder.backbone = backbone
        self.vision_encoder.neck = _Block()
        self.text_encoder = _Block()
        self.text_projection = nn.Linear(4, 4)
        self.detr_decoder = _Block()


def test_rates_left_open_keep_upstreams_proportions() -> None:
    options = parameter_options(_Named(), OptimConfig(lr=8e-4))

    assert options["detr_decoder.fc.weight"].base_lr == 8e-4
    assert options["vision_encoder.neck.fc.weight"].base_lr == pytest.approx(2.5e-4)
    assert options["text_encoder.fc.weight"].base_lr == pytest.approx(5e-5)
    assert options["text_projection.weight"].base_lr == pytest.approx(5e-5)


def test_biases_and_layer_norms_are_not_decayed_and_everything_else_is() -> None:
    options = parameter_options(_Named(), OptimConfig(weight_decay=0.3))

    decay = {name.rsplit("detr_decoder.", 1)[1]: o.weight_decay for name, o in options.items() if "detr_dec" in name}
    assert {
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "group_norm.weight": 0.3,
        "group_norm.bias": 0.0,
        "fc.weight": 0.3,
        "fc.bias": 0.0,
    } == decay
    assert options["vision_encoder.backbone.embeddings.position_embeddings"].weight_decay == 0.3


def test_every_trainable_parameter_is_in_exactly_one_group_and_no_frozen_one_is() -> None:
    model = _Named()
    model.text_encoder.requires_grad_(requires_grad=False)

    optimizer = build_optimizer(model, OptimConfig(), fused=False)

    counted = Counter(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
    assert {id(parameter): 1 for parameter in model.parameters() if parameter.requires_grad} == counted
    names = [group["name"] for group in optimizer.param_groups]
    assert len(set(names)) == len(names)
    assert all(group["peak_lr"] == group["lr"] for group in optimizer.param_groups)


def test_groups_carry_the_names_of_their_parameters() -> None:
    model = _Named()

    optimizer = build_optimizer(model, OptimConfig(), fused=False)

    by_name = dict(model.named_parameters())
    for group in optimizer.param_groups:
        assert [id(by_name[name]) for name in group["param_names"]] == [id(p) for p in group["params"]]


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="every parameter is frozen"):
        build_optimizer(_Named().requires_grad_(requires_grad=False), OptimConfig(), fused=False)


def test_a_tensor_shared_between_parts_of_different_rates_is_refused() -> None:
    model = _Named()
    model.detr_decoder.fc.weight = model.text_encoder.fc.weight

    with pytest.raises(ValueError, match="are one tensor"):
        build_optimizer(model, OptimConfig(), fused=False)


def test_a_parameter_of_no_known_part_is_refused() -> None:
    model = _Named()
    model.adapter = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"adapter\.weight"):
        build_optimizer(model, OptimConfig(), fused=False)


@pytest.mark.parametrize("fused", [False, True])
def test_updates_repeat_their_bits(*, fused: bool) -> None:
    def updated() -> list[torch.Tensor]:
        model = _Named()
        optimizer = build_optimizer(model, OptimConfig(lr=1e-2), fused=fused)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    first, second = updated(), updated()

    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], next(iter(_Named().parameters())))
