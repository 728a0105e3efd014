"""The prompt of a pair: text tokens and, as upstream, one geometry CLS token."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt tokens of B pairs.

    Attributes:
        tokens_BMd: features, M = 32 text tokens, and one more with the geometry token.
        valid_BM: bool, False at padding.
    """

    tokens_BMd: Tensor
    valid_BM: Tensor

    @property
    def attention_mask(self) -> Tensor:
        """The mask [B, 1, 1, M] that lets every query attend to the valid tokens."""
        return self.valid_BM[:, None, None, :]

    def with_token(self, token_B1d: Tensor) -> "Prompt":
        """Return the prompt with one more valid token at its end."""
        valid = torch.cat([self.valid_BM, self.valid_BM.new_ones(self.valid_BM.shape[0], 1)], dim=1)
        return Prompt(torch.cat([self.tokens_BMd, token_B1d.to(self.tokens_BMd.dtype)], dim=1), valid)
