"""Shapes from memory are those of the operations, and nothing else is ever answered from memory.

`test_model_cost` compares the plans of whole steps.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sam3ft_trainer.model.shape_memo import ShapeMemo

ops = torch.ops.aten


def meta(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(sizes, dtype=dtype, device="meta")


def look(tensor: Any) -> Any:
    if tensor is None:
        return None
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.storage_offset(), tensor.untyped_storage().nbytes())


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


FRESH = {
    "sum of two sizes": (ops.add.Tensor, (meta(3, 1, 4), meta(5, 1))),
    "permuted": (ops.mul.Tensor, (meta(3, 4).t(), meta(4, 3))),
    "other dtypes": (ops.mul.Tensor, (meta(2, dtype=torch.int64), meta(2, dtype=torch.bfloat16))),
    "several outputs": (ops.native_layer_norm.default, (meta(2, 3, 8), [8], meta(8), meta(8), 1e-5)),
    "outputs that are None": (
        ops.native_layer_norm_backward.default,
        (meta(2, 8), meta(2, 8), [8], meta(2, 1), meta(2, 1), meta(8), meta(8), [True, False, True]),
    ),
    "a new tensor": (ops.empty_like.default, (meta(3, 5).t(),)),
}


@pytest.mark.parametrize("name", FRESH)
def test_a_remembered_result_is_like_the_first(name: str):
    memo = ShapeMemo()
    func, args = FRESH[name]
    plain = func(*args)
    first, second, third = (memo.run(func, args, {}) for _ in range(3))
    assert type(plain) is type(second)
    outputs = [it if isinstance(it, tuple | list) else (it,) for it in (plain, first, second, third)]
    assert [look(it) for it in outputs[0]] == [look(it) for it in outputs[1]] == [look(it) for it in outputs[2]]
    alive = [it for group in outputs[1:] for it in group if it is not None]
    assert len({storage(it) for it in alive}) == len(alive)


@pytest.mark.parametrize("scalar", [1, 1.0, True, 1j])
def test_equal_numbers_of_other_types_are_told_apart(scalar: object):
    memo, integers = ShapeMemo(), meta(3, dtype=torch.int64)
    for other in (1, 1.0, True, 1j):
        memo.run(ops.mul.Tensor, (integers, other), {})
    assert memo.run(ops.mul.Tensor, (integers, scalar), {}).dtype == (integers * scalar).dtype


def test_equal_sizes_in_another_order_of_memory_are_told_apart():
    memo = ShapeMemo()
    square, turned = meta(4, 4), meta(4, 4).t()
    for tensor in (square, turned, square, turned):
        assert memo.run(ops.neg.default, (tensor,), {}).stride() == tensor.stride()


@pytest.mark.parametrize(
    ("func", "arguments"),
    [(ops.view.default, ([12],)), (ops._unsafe_view.default, ([12],)), (ops.detach.default, ()), (ops.t.default, ())],
)
def test_a_view_stays_one_of_the_tensor_that_it_was_asked_of(func: Any, arguments: tuple[Any, ...]):
    memo = ShapeMemo()
    for _ in range(3):
        base = meta(3, 4)
        assert storage(base) == storage(memo.run(func, (base, *arguments), {}))


def test_an_operation_in_place_returns_its_argument():
    memo = ShapeMemo()
    for _ in range(3):
        base = meta(3)
        assert memo.run(ops.add_.Tensor, (base, 1), {}) is base


def test_numbers_are_computed_every_time():
    memo = ShapeMemo()
    for value in (1.0, 2.0, 3.0):
        assert memo.run(ops.add.Tensor, (torch.tensor(value), 1), {}).item() == value + 1


def test_an_operation_that_fails_fails_again():
    memo = ShapeMemo()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            memo.run(ops.mm.default, (meta(2, 3), meta(2, 3)), {})
