"""Dropout and stochastic depth of the training forward, with the places upstream has them.

The rates live here and not in the transformers modules, so that the exported configuration keeps the values of the
folder it came from, and so that attention dropout and drop path, which `Sam3Model` lacks, need no changed module.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Regularization:
    """Rates in force during one forward; all zero in evaluation.

    Attributes:
        dropout: residual branches and FFN-inner activations of geometry encoder, fusion encoder, decoder, prompt MLP.
        attention_dropout: attention weights of the same parts; vision, text and mask decoder have none.
        drop_path: stochastic depth of the last ViT block; block i of n has `drop_path * i / (n - 1)`.
    """

    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0

    @property
    def active(self) -> bool:
        """Whether any random number is drawn in the forward."""
        return max(self.dropout, self.attention_dropout, self.drop_path) > 0

    def block_rates(self, num_blocks: int) -> list[float]:
        """Return the stochastic-depth rate of each of `num_blocks` ViT blocks, linear from 0 (arXiv 1603.09382)."""
        return [self.drop_path * i / max(1, num_blocks - 1) for i in range(num_blocks)]


OFF = Regularization()


def drop_path(branch: Tensor, rate: float) -> Tensor:
    """Zero the residual branch of whole samples with probability `rate`, and scale the others by `1 / (1 - rate)`.

    The first dimension is the sample. A rate of 0 returns `branch` itself and draws nothing.
    """
    if rate == 0.0:
        return branch
    keep = torch.empty((branch.shape[0],) + (1,) * (branch.ndim - 1), dtype=branch.dtype, device=branch.device)
    return branch * keep.bernoulli_(1 - rate).div_(1 - rate)
