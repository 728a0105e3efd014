"""The phrases of a batch as the model takes them: token ids, or cached features when the text encoder is frozen."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sam3ft_trainer.model.language import valid_tokens
from sam3ft_trainer.model.text import PhraseCache, Tokenizer
from sam3ft_trainer.model.training import EncodedText, TrainingModel
from sam3ft_trainer.run.prefetch import TextInputs


class TextSource(Protocol):
    """Where the loop and the evaluation get their phrases from."""

    def inputs(self, phrases: Sequence[str]) -> TextInputs:
        """Return the text arguments of the training forward, one row a phrase."""
        ...

    def encode(self, phrases: Sequence[str]) -> EncodedText:
        """Return encoded phrases on the model's device."""
        ...


class LiveText:
    """Tokenises each phrase once and lets the text encoder run in every forward."""

    def __init__(self, model: TrainingModel, tokenizer: Tokenizer, device: torch.device) -> None:
        """Serve `model`."""
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}

    def inputs(self, phrases: Sequence[str]) -> TextInputs:
        """Return token ids and attention mask, one row a phrase; no rows for a batch without pairs."""
        if not phrases:
            ids, mask, _ = self._tokenizer.encode([])
            return {"input_ids_TK": ids, "attention_mask_TK": mask}
        rows = [self._row(phrase) for phrase in phrases]
        return {
            "input_ids_TK": torch.stack([ids for ids, _ in rows]),
            "attention_mask_TK": torch.stack([mask for _, mask in rows]),
        }

    def encode(self, phrases: Sequence[str]) -> EncodedText:
        """Run the text encoder, for evaluation."""
        ids, mask, _ = self._tokenizer.encode(phrases)
        return self._model.encode_text(ids.to(self._device), mask.to(self._device))

    def _row(self, phrase: str) -> tuple[Tensor, Tensor]:
        if phrase not in self._rows:
            ids, mask, _ = self._tokenizer.encode([phrase])
            self._rows[phrase] = (ids[0], mask[0])
        return self._rows[phrase]


class CachedText:
    """Serves the features of a frozen text encoder, whose weights are no longer in memory."""

    def __init__(self, cache: PhraseCache, device: torch.device) -> None:
        """Serve from `cache`; it must hold every phrase that will be asked."""
        self._cache = cache
        self._device = device

    def inputs(self, phrases: Sequence[str]) -> TextInputs:
        """Return features and attention mask on the device, one row a phrase."""
        features, mask = self._cache.gather(phrases, self._device)
        return {"input_ids_TK": None, "text_features_TKD": features, "attention_mask_TK": mask}

    def encode(self, phrases: Sequence[str]) -> EncodedText:
        """Return the same features, for evaluation."""
        features, mask = self._cache.gather(phrases, self._device)
        return EncodedText(features, valid_tokens(mask))
