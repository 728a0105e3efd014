"""What operations return on the meta device, remembered: a step repeats the same few hundred in every layer.

On that device most operations are written in Python, and take a tenth of a millisecond and more to find out a shape.
What they return depends on their arguments' sizes alone, so that the second of two equal layers need not ask again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_Recipe = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Sizes, strides and dtype of a new tensor."""


@dataclass(frozen=True, slots=True)
class _Recipes:
    """How to make a result.

    Attributes:
        kind: list or tuple for an operation with several outputs; None for one that returns a tensor.
        outputs: one for each; None for a None.
    """

    kind: type | None
    outputs: tuple[_Recipe | None, ...]

    def make(self) -> Any:
        made = [None if recipe is None else _make(recipe) for recipe in self.outputs]
        return made[0] if self.kind is None else self.kind(made)


_RUN = _Recipes(None, ())
"""Stands for a result that must come from the operation itself."""


class ShapeMemo:
    """Runs operations, and answers from memory those whose results are new tensors of sizes that are known.

    An answer is a tensor like that of the operation itself: on the meta device, with storage of its own and as large.
    What writes to an argument, returns a view of one or anything but tensors is run every time, and so is whatever
    has an argument on another device.
    """

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._known: dict[Any, _Recipes] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what `func(*args, **kwargs)` does; `func` is an operator overload, below autograd."""
        try:
            key = (func, _key_of(args), _key_of(tuple(kwargs.items())))
            known = self._known.get(key)
        except TypeError:  # an argument on another device, or one that is not hashable
            return func(*args, **kwargs)
        if known is not None and known is not _RUN:
            return known.make()
        result = func(*args, **kwargs)
        if known is None:
            self._known[key] = _recipes_of(func, args, kwargs, result)
        return result


def _key_of(value: Any) -> Any:
    """Return what an argument is to an operation's result; 1, 1.0 and True promote differently and are told apart."""
    if isinstance(value, Tensor):
        if value.device.type != "meta":
            raise TypeError(value.device)
        return value.shape, value.stride(), value.storage_offset(), value.dtype
    if isinstance(value, list | tuple):
        return tuple([_key_of(item) for item in value])
    return type(value), value


def _recipes_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> _Recipes:
    """Return how to make such a result, or `_RUN`."""
    if func._schema.is_mutable:  # noqa: SLF001 - as torch's own modes ask
        return _RUN
    kind = type(result) if isinstance(result, list | tuple) else None
    given = {_storage_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    recipes: list[_Recipe | None] = []
    for output in result if kind is not None else (result,):
        if output is None:
            recipes.append(None)
            continue
        recipe = _recipe_of(output)
        # Schemas do not name every view (`_unsafe_view`): the storages are looked at.
        if recipe is None or _storage_of(output) in given:
            return _RUN
        given.add(_storage_of(output))
        recipes.append(recipe)
    return _Recipes(kind, tuple(recipes))


def _recipe_of(output: Any) -> _Recipe | None:
    """Return how to make such a tensor; None where something would tell it apart from one that is made anew."""
    if type(output) is not Tensor or output.device.type != "meta" or output.storage_offset():
        return None
    # torch has no other name for the last one.
    if output.is_conj() or output.is_neg() or output._is_zerotensor():  # noqa: SLF001
        return None
    recipe = (tuple(output.shape), output.stride(), output.dtype)
    has_its_size = output.untyped_storage().nbytes() == _make(recipe).untyped_storage().nbytes()
    return recipe if has_its_size else None


def _storage_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - the storage's identity


def _make(recipe: _Recipe) -> Tensor:
    sizes, strides, dtype = recipe
    return torch.empty_strided(sizes, strides, dtype=dtype, device="meta")
