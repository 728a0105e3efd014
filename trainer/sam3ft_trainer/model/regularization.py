"""Dropout and stochastic depth of the training forward, with the places upstream has them.

The rates live here and not in the transformers modules, so that the exported configuration keeps the values of the
folder it came from, and so that attention dropout and drop path, which `Sam3Model` lacks, need no changed module.
"""

from dataclasses import dataclass

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


def branch_scales(x: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Draw what multiplies the two residual branches of a block for each sample: 0 with probability `rate`.

    The others are `1 / (1 - rate)`, so that the expectation is 1. A rate of 0 gives ones and draws nothing.

    Args:
        x: the block's input; its first dimension is the sample, its device and dtype those of the result.
        rate: of stochastic depth, in 0..1.

    Returns:
        Two tensors of the shape [samples, 1, ..., 1].
    """
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    if rate == 0.0:
        # Two tensors: a compiled block would take one that is passed twice for another case.
        return x.new_ones(shape), x.new_ones(shape)
    first, second = (x.new_empty(shape).bernoulli_(1 - rate).div_(1 - rate) for _ in range(2))
    return first, second
