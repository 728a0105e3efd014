import json
import math
from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from sam3ft_api.errors import CheckpointIncompatible
from sam3ft_trainer.store.layout import (
    DTYPES,
    TensorSpec,
    check_same_tensors,
    digest_of,
    model_index,
    parse_header,
    plan_files,
    specs_of,
)
from sam3ft_trainer.store.slab import Slab, content_hash

specs_strategy = st.lists(
    st.builds(
        TensorSpec,
        name=st.builds(
            lambda group, name: f"{group}/{name}",
            st.sampled_from(["model", "optimizer", "ema"]),
            st.text("abc._/0", min_size=1, max_size=8),
        ),
        dtype=st.sampled_from(list(DTYPES)),
        shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    ),
    unique_by=lambda spec: spec.name,
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(specs_strategy, st.integers(1, 9), st.integers(1, 3000))
def test_every_tensor_is_written_exactly_once_and_shares_are_even(
    specs: list[TensorSpec], world_size: int, max_file_bytes: int
):
    plans = plan_files(specs, world_size=world_size, max_file_bytes=max_file_bytes)
    written = sorted((tensor for plan in plans for tensor in plan.tensors), key=lambda t: t.name)
    loads = [sum(t.num_bytes for p in plans if p.rank == rank for t in p.tensors) for rank in range(world_size)]

    assert sorted(specs, key=lambda t: t.name) == written
    assert max(loads) - min(loads) <= max((spec.num_bytes for spec in specs), default=0)
    assert len(plans) == len({plan.name for plan in plans})
    for plan in plans:
        assert {plan.group} == {tensor.group for tensor in plan.tensors}
        assert len(plan.tensors) == 1 or sum(t.num_bytes for t in plan.tensors) <= max_file_bytes


@settings(max_examples=50, deadline=None)
@given(specs_strategy, st.integers(1, 9), st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_tensors(specs: list[TensorSpec], world_size: int, random: Random):
    shuffled = list(specs)
    random.shuffle(shuffled)

    assert plan_files(specs, world_size=world_size) == plan_files(shuffled, world_size=world_size)


def test_plans_of_other_shapes_have_other_digests():
    one = plan_files([TensorSpec("model/a", torch.float32, (2, 3))], world_size=2)
    other = plan_files([TensorSpec("model/a", torch.float32, (3, 2))], world_size=2)

    assert digest_of(one) != digest_of(other)


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@settings(max_examples=20, deadline=None)
@given(specs_strategy.filter(bool), st.integers(1, 3))
def test_a_staged_file_is_a_safetensors_file(specs: list[TensorSpec], world_size: int):
    generator = torch.Generator().manual_seed(0)
    tensors = {s.name: (torch.randn(s.shape, generator=generator) * 50).to(s.dtype) for s in specs}
    plans = plan_files(specs_of(tensors), world_size=world_size)
    slab = Slab()
    slab.stage(plans, tensors)
    for plan in plans:
        data = bytes(slab.view(plan.name))
        start, found = parse_header(data, group=plan.group, file_bytes=len(data))

        assert plan.num_bytes == len(data)
        assert (len(plan.header), set(plan.tensors)) == (start, set(found))  # empty ones share a place
        loaded = load(data)
        assert {tensor.key for tensor in plan.tensors} == loaded.keys()
        for tensor in plan.tensors:
            assert raw(tensors[tensor.name]) == raw(loaded[tensor.key])
            assert tensors[tensor.name].shape == loaded[tensor.key].shape


def test_a_file_written_by_the_reference_library_can_be_parsed():
    data = save({"b": torch.ones(3, dtype=torch.bfloat16), "a": torch.zeros(2, 2), "c": torch.tensor(True)})
    start, specs = parse_header(data, group="model", file_bytes=len(data))

    assert {"model/a", "model/b", "model/c"} == {spec.name for spec in specs}
    assert len(data) == start + sum(spec.num_bytes for spec in specs)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05",
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (3).to_bytes(8, "little") + b"{}x",
        (2).to_bytes(8, "little") + b"{}trailing",
        (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}     ',
        (60).to_bytes(8, "little") + b'{"a":{"dtype":"X99","shape":[2],"data_offsets":[0,8]}}      ',
        (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":["x"],"data_offsets":[0,8]}}    ',
    ],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 - one kind for the caller, many reasons
        parse_header(data, group="model", file_bytes=len(data))


def test_the_index_names_the_file_of_each_model_tensor():
    specs = [TensorSpec(f"model/{name}", torch.float32, (4,)) for name in "abc"]
    plans = plan_files([*specs, TensorSpec("ema/a", torch.float32, (4,))], world_size=2)
    index = json.loads(model_index(plans))

    assert {"a", "b", "c"} == index["weight_map"].keys()
    assert 48 == index["metadata"]["total_size"]
    for plan in plans:
        for tensor in plan.tensors:
            if plan.group == "model":
                assert plan.name == index["weight_map"][tensor.key]


@pytest.mark.parametrize("name", ["weight", "/weight", "model/", "a.b/c"])
def test_a_name_without_a_group_is_refused(name: str):
    with pytest.raises(ValueError, match="GROUP/NAME"):
        specs_of({name: torch.zeros(1)})


def test_a_dtype_that_the_format_lacks_is_refused():
    with pytest.raises(ValueError, match="complex64"):
        specs_of({"model/a": torch.zeros(1, dtype=torch.complex64)})


def test_differences_between_checkpoint_and_model_are_named():
    there = specs_of({"model/a": torch.zeros(2), "model/b": torch.zeros(3), "ema/x": torch.zeros(1)})
    here = specs_of({"model/a": torch.zeros(2, 2), "model/c": torch.zeros(1), "model/d": torch.zeros(1)})

    with pytest.raises(CheckpointIncompatible) as refusal:
        check_same_tensors(there, here, where="s3://x")
    assert "model/c is not in the checkpoint; model/d is not in the checkpoint; ema/x" in str(refusal.value)
    assert "and 2 more" in str(refusal.value)
    check_same_tensors(there, there, where="s3://x")


def test_the_slab_is_one_piece_of_memory_that_is_used_again():
    tensors = {f"model/{i}": torch.full((100, 10), float(i)) for i in range(5)}
    plans = plan_files(specs_of(tensors), world_size=1)
    slab = Slab()
    slab.stage(plans, tensors)
    address, size = slab._bytes.data_ptr(), slab.num_bytes
    tensors["model/3"].fill_(77.0)
    before = content_hash(slab.view(plans[0].name))
    slab.stage(plans, tensors)

    assert (address, size) == (slab._bytes.data_ptr(), slab.num_bytes)
    assert size <= 1.01 * 5 * 4000 + 512
    assert before != content_hash(slab.view(plans[0].name))


def test_awkward_layouts_keep_their_values(state_at: Callable[[int], dict[str, Tensor]]):
    state = state_at(3)
    plans = plan_files(specs_of(state), world_size=1)
    slab = Slab()
    slab.stage(plans, state)
    for plan in plans:
        for key, value in load(bytes(slab.view(plan.name))).items():
            assert torch.equal(state[f"{plan.group}/{key}"], value)


def test_sixteen_mebibyte_pieces_give_the_hash_of_the_whole():
    import xxhash  # noqa: PLC0415 - beside its only use

    data = memoryview(bytes(range(256)) * (70 << 12))

    assert xxhash.xxh3_128(data).hexdigest() == content_hash(data)
    assert math.isclose(len(data) / (16 << 20), 4.375)
