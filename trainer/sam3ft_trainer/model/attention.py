"""Attention and feed-forward over the modules of transformers, with the dropout that upstream has inside them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.models.sam3.modeling_sam3 import Sam3Attention, Sam3MLP

CHUNK_ELEMENTS = 1 << 24
"""Attention weights that exist at once where no fused kernel exists: 16 Mi elements, 64 MiB in float32."""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which operations keep their inputs' precision; the meta device has no autocast to leave."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def split_heads(x_BKD: Tensor, num_heads: int) -> Tensor:
    """Return `x` as [B, heads, K, D / heads]."""
    batch, tokens, width = x_BKD.shape
    return x_BKD.view(batch, tokens, num_heads, width // num_heads).transpose(1, 2)


def attend(
    attention: Sam3Attention,
    query_BQD: Tensor,
    key_BKD: Tensor,
    value_BKD: Tensor,
    *,
    mask: Tensor | None,
    dropout: float,
) -> Tensor:
    """Return the output [B, Q, D] of a `Sam3Attention` with dropout on the attention weights.

    `mask` is bool (True attends) or an additive bias, broadcastable to [B, heads, Q, K].
    """
    heads = attention.num_attention_heads
    context_BHQd = scaled_dot_product(
        split_heads(attention.q_proj(query_BQD), heads),
        split_heads(attention.k_proj(key_BKD), heads),
        split_heads(attention.v_proj(value_BKD), heads),
        mask=mask,
        dropout=dropout,
    )
    output: Tensor = attention.o_proj(context_BHQd.transpose(1, 2).flatten(2))
    return output


class AttentionKernel(Protocol):
    """What computes attention: a function of query, key, value, mask and dropout rate."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, /) -> Tensor:
        """Return softmax(q k^T / sqrt(d) + mask) v with dropout on the softmax."""
        ...


def is_fused(device_type: str, mask: Tensor | None, dropout: float) -> bool:
    """Whether torch's attention on that device holds no weights: on the CPU not with dropout, nor a learned bias."""
    return device_type != "cpu" or (dropout == 0 and (mask is None or not mask.requires_grad))


def needs_pieces(query_BHQd: Tensor, key_BHKd: Tensor) -> bool:
    """Whether the attention weights of this call exceed `CHUNK_ELEMENTS`."""
    return query_BHQd[..., 0].numel() * key_BHKd.shape[-2] > CHUNK_ELEMENTS


def standard_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, /) -> Tensor:
    """Torch's attention, fused where the device has a kernel for it.

    On the CPU there is none with dropout or with a learned bias; the attention weights of one 1008 px image would then
    take 0.9 GB per encoder layer and pair, several times over. Such calls run in pieces of `CHUNK_ELEMENTS` weights,
    each recomputed in backward.
    """
    if not is_fused(query.device.type, mask, dropout) and needs_pieces(query, key):
        return _in_pieces(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


_kernel: AttentionKernel = standard_kernel


@contextmanager
def attention_kernel(kernel: AttentionKernel) -> Iterator[None]:
    """Compute every attention of the composed forward by `kernel` within this context; for tracing on shapes."""
    global _kernel  # noqa: PLW0603 - one place that the forward reads, so that it needs no argument through all layers
    before, _kernel = _kernel, kernel
    try:
        yield
    finally:
        _kernel = before


def scaled_dot_product(
    query_BHQd: Tensor, key_BHKd: Tensor, value_BHKd: Tensor, *, mask: Tensor | None, dropout: float
) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + mask) v [B, H, Q, d] by the kernel in force."""
    return _kernel(query_BHQd, key_BHKd, value_BHKd, mask, dropout)


def _piece(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def _in_pieces(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    rows = max(1, CHUNK_ELEMENTS // (query.shape[1] * key.shape[-2]))
    batch = query.shape[0]
    masks = [None] * batch if mask is None else torch.split(mask.expand(batch, *mask.shape[1:]), 1)
    outputs = []
    # `split` and not slices: its backward joins the pieces' gradients once instead of adding full-size zeros.
    for q, k, v, m in zip(torch.split(query, 1), torch.split(key, 1), torch.split(value, 1), masks, strict=True):
        pieces = torch.split(q, rows, dim=2)
        biases = [m] * len(pieces) if m is None or m.shape[2] == 1 else torch.split(m, rows, dim=2)
        outputs.append(
            torch.cat(
                [
                    checkpoint(_piece, piece, k, v, bias, dropout, use_reentrant=False)
                    for piece, bias in zip(pieces, biases, strict=True)
                ],
                dim=2,
            )
        )
    return torch.cat(outputs)


def feed_forward(mlp: Sam3MLP, hidden: Tensor, dropout: float) -> Tensor:
    """Return `fc2(dropout(activation(fc1(x))))` of a `Sam3MLP`, upstream's place for the inner dropout."""
    inner = mlp.activation_fn(mlp.fc1(hidden))
    output: Tensor = mlp.fc2(F.dropout(inner, dropout, training=dropout > 0))
    return output


def residual(hidden: Tensor, branch: Tensor, dropout: float) -> Tensor:
    """Return `hidden + dropout(branch)`."""
    return hidden + F.dropout(branch, dropout, training=dropout > 0)
