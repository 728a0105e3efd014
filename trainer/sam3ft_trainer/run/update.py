"""Clipping and the verdict on a step's gradients, both on the device: the host never waits to learn them."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def clip_and_check(parameters: Iterable[Tensor], max_norm: float | None) -> tuple[Tensor, Tensor]:
    """Scale all gradients so that their joint L2 norm is at most `max_norm`, and say whether they are finite.

    Call it after the gradients have been summed over micro-batches and ranks and, with fp16, unscaled; the result is
    then the same on every rank. Where the norm is not finite the gradients are of no use afterwards, and the caller
    must skip the update.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: upper bound of the norm; None measures without clipping.

    Returns:
        The norm before clipping, and a bool scalar that is True when every gradient is finite; both on the device.
    """
    clipped = [parameter for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in clipped if parameter.grad is not None])
    if max_norm is not None:
        clip_grads_with_norm_(clipped, max_norm, norm)
    return norm, torch.isfinite(norm)
