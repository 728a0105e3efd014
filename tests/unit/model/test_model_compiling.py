"""Compiled layers: the same numbers, one form for equal layers, and what happens where nothing can be compiled."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, fx
from torch._dynamo import register_backend, reset
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel
from transformers import Sam3Model

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import ModelConfig, Part
from sam3ft_trainer.model import compiling
from sam3ft_trainer.model.checkpointing import PARTS
from sam3ft_trainer.model.compiling import LayerCompiler, keep_compiled_in, missing_for_compiling, why_not_compiled
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions

CUDA = torch.device("cuda", 0)
graphs: list[fx.GraphModule] = []


@register_backend
def counting(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
    graphs.append(graph)
    return graph.forward


@register_backend
def broken(_graph: fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no such instruction")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    reset()
    compiling._compiled.cache_clear()
    graphs.clear()
    yield
    reset()


def run(
    sam3: Sam3Model,
    config: ModelConfig,
    inputs: tuple[Tensor, ...],
    weighted_sum: Callable[[Predictions], Tensor],
    compiler: LayerCompiler | None,
    parts: tuple[Part, ...] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    sam3.zero_grad()
    model = TrainingModel(sam3, config, checkpointed=parts, compiler=compiler).train()
    torch.manual_seed(4)
    loss = weighted_sum(model(*inputs, o2m=True, masks=True))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in sam3.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [(), PARTS])
def test_loss_and_gradients_are_those_of_the_plain_run(
    sam3: Sam3Model,
    inputs: tuple[Tensor, ...],
    weighted_sum: Callable[[Predictions], Tensor],
    parts: tuple[Part, ...],
):
    config = ModelConfig(dropout=0.0, attention_dropout=0.0)  # drop path is drawn outside of what is compiled
    loss, gradients = run(sam3, config, inputs, weighted_sum, None)

    again, same = run(sam3, config, inputs, weighted_sum, LayerCompiler(backend="aot_eager"), parts)

    torch.testing.assert_close(again, loss)
    assert set(gradients) == set(same)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        # Some gradients are zero but for rounding, such as those of the keys' biases.
        allowed = 1e-4 * float(gradient.abs().max()) + 1e-6 * largest
        assert float((same[name] - gradient).abs().max()) <= allowed, name


def test_under_ddp_too(sam3: Sam3Model, inputs: tuple[Tensor, ...], weighted_sum: Callable[[Predictions], Tensor]):
    config = ModelConfig(dropout=0.0, attention_dropout=0.0)
    loss, gradients = run(sam3, config, inputs, weighted_sum, None)
    sam3.zero_grad()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = TrainingModel(sam3, config, compiler=LayerCompiler(backend="counting")).train()
        network = DistributedDataParallel(model, find_unused_parameters=True)
        torch.manual_seed(4)
        again = weighted_sum(network(*inputs, o2m=True, masks=True))
        again.backward()
    finally:
        distributed.destroy_process_group()

    torch.testing.assert_close(again.detach(), loss)
    found = {name for name, p in sam3.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {name for name, gradient in gradients.items() if bool(gradient.any())} == found
    assert 2 + 6 == len(graphs), "not cut at DDP's buckets"


def test_equal_layers_share_one_form_and_later_steps_compile_nothing(
    sam3: Sam3Model, inputs: tuple[Tensor, ...], weighted_sum: Callable[[Predictions], Tensor]
):
    compiler = LayerCompiler(backend="counting")
    run(sam3, ModelConfig(), inputs, weighted_sum, compiler)
    sizes = {layer.window_size for layer in sam3.vision_encoder.backbone.layers}
    first = len(graphs)

    run(sam3, ModelConfig(), inputs, weighted_sum, compiler)

    # One form each of text, geometry, fusion encoder and mask decoder, one of the ViT for each window size, and two of
    # the decoder: the boxes of its first layer are learned.
    assert len(sizes) + 6 == first
    assert first == len(graphs)


def test_nothing_is_compiled_without_gradients(
    sam3: Sam3Model, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions]
):
    model = TrainingModel(sam3, ModelConfig(), compiler=LayerCompiler(backend="counting")).eval()

    with torch.no_grad():
        predict(model, inputs)

    assert [] == graphs


def test_what_cannot_be_compiled_is_told_once_and_trains_without(
    sam3: Sam3Model, inputs: tuple[Tensor, ...], weighted_sum: Callable[[Predictions], Tensor]
):
    told: list[str] = []
    loss, _ = run(sam3, ModelConfig(), inputs, weighted_sum, None)

    again, _ = run(sam3, ModelConfig(), inputs, weighted_sum, LayerCompiler(backend="broken", on_failure=told.append))

    assert torch.equal(loss, again)
    assert 1 == len(told)
    assert "training goes on without" in told[0]
    assert "no such instruction" in told[0]


def test_what_must_be_compiled_and_cannot_ends_the_run(
    sam3: Sam3Model, inputs: tuple[Tensor, ...], weighted_sum: Callable[[Predictions], Tensor]
):
    with pytest.raises(
        InvalidConfig, match=r"runtime\.compile is always.*no such instruction.*take auto or never"
    ) as e:
        run(sam3, ModelConfig(), inputs, weighted_sum, LayerCompiler(backend="broken"))
    assert isinstance(e.value.__cause__, TorchDynamoException)


def test_errors_of_the_function_itself_are_its_own():
    def fails(x: Tensor) -> Tensor:
        return x.view(7)

    told: list[str] = []
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        LayerCompiler(backend="eager", on_failure=told.append).run(fails, torch.ones(2), varies=False)


def test_on_the_cpu_nothing_is_compiled():
    cpu = torch.device("cpu")
    assert "the device is cpu" == why_not_compiled("auto", cpu)
    assert "runtime.compile is never" == why_not_compiled("never", CUDA)
    with pytest.raises(InvalidConfig, match=r"runtime\.compile is always, but the device is cpu; take auto or never"):
        why_not_compiled("always", cpu)


def test_what_a_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """There is no device here: its capability, and the tools beside it, are given."""
    found: dict[str, Any] = {"capability": (6, 1), "triton": None, "gcc": None, "include": str(tmp_path)}
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: found["capability"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found["triton"])
    monkeypatch.setattr("shutil.which", lambda name: found["gcc"] if name == "gcc" else None)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": found["include"]})

    lacking = [missing_for_compiling(CUDA)]
    for name, value in (("capability", (8, 0)), ("triton", object()), ("gcc", "/usr/bin/gcc")):
        found[name] = value
        lacking.append(missing_for_compiling(CUDA))
    (tmp_path / "Python.h").touch()

    assert ["7.0 or newer", "triton", "C compiler", "Python.h"] == [
        word
        for word, text in zip(("7.0 or newer", "triton", "C compiler", "Python.h"), lacking, strict=True)
        if word in text
    ]
    assert "" == missing_for_compiling(CUDA) == why_not_compiled("auto", CUDA) == why_not_compiled("always", CUDA)
    found["gcc"] = None
    assert why_not_compiled("auto", CUDA).startswith("this machine lacks a C compiler")
    with pytest.raises(InvalidConfig, match="lacks a C compiler"):
        why_not_compiled("always", CUDA)


def test_what_was_compiled_stays_with_the_run_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")

    keep_compiled_in(tmp_path)

    assert str(tmp_path / "inductor") == os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert "/mine" == os.environ["TRITON_CACHE_DIR"]
