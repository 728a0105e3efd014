"""Phrases to token ids, and the cache of phrase embeddings for runs with a frozen text encoder."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerBase, Sam3Model

from sam3ft_api.errors import ModelUnusable
from sam3ft_trainer.model.attention import without_autocast
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.language import encode_text

NUM_TOKENS = 32
"""K: length of every row of ids, start and end token included. SAM 3's text encoder was trained with 32."""
PADDING_ID = 0
"""What fills a row behind the end token, as upstream; masked everywhere."""
_MERGES = [("t", "h"), ("th", "e</w>"), ("i", "n"), ("e", "r</w>")]
BYTE_VOCABULARY_SIZE = 2 * 256 + len(_MERGES) + 2
"""Entries of `byte_tokenizer`: each byte within and at the end of a word, the merges, start and end."""
TEXT_PREFIXES = ("text_encoder.", "text_projection.")
"""Names of the part `text`."""
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


class WeightSource(Protocol):
    """Where initial weights can be read again, for tensors that were dropped from memory."""

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor on the CPU) of the named tensors as they were at the start."""
        ...


def byte_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer of single bytes, built without any file: one token a letter, four merges.

    For presets: any text has ids, and the same code path (normalisation, start and end, saving) as the published one.
    """
    symbols = sorted(ByteLevel.alphabet())
    tokens = symbols + [f"{symbol}</w>" for symbol in symbols] + ["".join(pair) for pair in _MERGES]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=_MERGES, model_max_length=NUM_TOKENS
    )


class Tokenizer:
    """Phrases to rows of 32 token ids.

    Attributes:
        pretrained: the transformers tokenizer, for saving beside an exported model.
    """

    def __init__(self, pretrained: PreTrainedTokenizerBase) -> None:
        """Wrap a tokenizer that adds a start and an end token."""
        self.pretrained = pretrained

    @classmethod
    def from_folder(cls, folder: Path, *, vocabulary: int) -> "Tokenizer":
        """Read the tokenizer files of a model folder; nothing is fetched and no code of the folder is run.

        Raises:
            ModelUnusable: files are missing or unreadable, or ids would exceed the model's `vocabulary`.
        """
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            raise ModelUnusable(
                f"model folder {folder} has no tokenizer ({' or '.join(_TOKENIZER_FILES)}); "
                "copy the tokenizer files of the published model into it"
            )
        try:
            pretrained = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelUnusable(f"tokenizer files in {folder} cannot be read: {error}") from error
        if len(pretrained) > vocabulary:
            raise ModelUnusable(
                f"the tokenizer in {folder} has {len(pretrained)} entries, the text encoder {vocabulary}; "
                "they belong to different models"
            )
        return cls(pretrained)

    def encode(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor, int]:
        """Return (ids [T, 32] int64, attention mask [T, 32] int64, number of phrases that were cut).

        A phrase of more than 32 tokens keeps its first 31, the start token among them, and the end token, as upstream.
        """
        ids = torch.full((len(phrases), NUM_TOKENS), PADDING_ID, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        num_truncated = 0
        for row, tokens in enumerate(self._token_lists(phrases)):
            num_truncated += len(tokens) > NUM_TOKENS
            kept = tokens if len(tokens) <= NUM_TOKENS else [*tokens[: NUM_TOKENS - 1], tokens[-1]]
            ids[row, : len(kept)] = torch.tensor(kept)
            mask[row, : len(kept)] = 1
        return ids, mask, num_truncated

    def _token_lists(self, phrases: Sequence[str]) -> Iterable[list[int]]:
        if not phrases:
            return []
        encoded: Any = self.pretrained(list(phrases), add_special_tokens=True, truncation=False, verbose=False)
        lists: list[list[int]] = encoded["input_ids"]
        return lists


class PhraseCache:
    """Projected text features of phrases, for a frozen text encoder: encoded once, then only looked up.

    With all phrases encoded, `release_encoder` gives the encoder's memory back (1.4 GB in float32 at the real size);
    `restore_encoder` reads the same weights again from where they came from, for export.
    Each phrase is encoded alone, so that its features do not depend on which others are cached, and a resumed run sees
    the same bits. Features are kept in the encoder's precision, without autocast.
    """

    def __init__(self, sam3: Sam3Model, tokenizer: Tokenizer) -> None:
        """Start empty; `sam3` must hold its text encoder when phrases are added."""
        self._sam3 = sam3
        self._tokenizer = tokenizer
        self._rows: dict[str, int] = {}
        self._features_NKd = torch.empty(0)
        self._masks_NK = torch.empty(0, dtype=torch.int64)
        self.num_truncated = 0

    def __len__(self) -> int:
        """Return the number of phrases."""
        return len(self._rows)

    @torch.no_grad()
    def add(self, phrases: Iterable[str]) -> int:
        """Encode the phrases that are not cached yet, and return how many those were.

        Raises:
            RuntimeError: there is something to encode and the encoder was released.
        """
        new = sorted(set(phrases) - set(self._rows))
        if not new:
            return 0
        device = self._sam3.text_projection.weight.device
        if device.type == "meta":
            raise RuntimeError(f"the text encoder was released; {len(new)} phrases come too late: {new[:3]}")
        ids, masks, truncated = self._tokenizer.encode(new)
        plain = Checkpointing()
        with without_autocast(device):
            rows = [
                encode_text(self._sam3, ids[i : i + 1].to(device), masks[i : i + 1].to(device), plain)
                for i in range(len(new))
            ]
        known = [self._features_NKd.to(device)] if self._rows else []
        self._features_NKd = torch.cat([*known, *rows])
        self._masks_NK = torch.cat([self._masks_NK.to(device), masks.to(device)]) if known else masks.to(device)
        for phrase in new:
            self._rows[phrase] = len(self._rows)
        self.num_truncated += truncated
        return len(new)

    def gather(self, phrases: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return (features [T, 32, d], attention mask [T, 32]) on `device`, where the cache then stays.

        Raises:
            LookupError: a phrase was never added.
        """
        unknown = [phrase for phrase in phrases if phrase not in self._rows]
        if unknown:
            raise LookupError(f"{len(unknown)} phrases are not in the cache of {len(self._rows)}: {unknown[:3]}")
        self._features_NKd, self._masks_NK = self._features_NKd.to(device), self._masks_NK.to(device)
        rows = torch.tensor([self._rows[phrase] for phrase in phrases], dtype=torch.int64)
        if device.type == "cuda":
            rows = rows.pin_memory()  # from pageable memory the copy would hold the host up
        rows = rows.to(device, non_blocking=True)
        return self._features_NKd.index_select(0, rows), self._masks_NK.index_select(0, rows)

    def release_encoder(self) -> int:
        """Drop the weights of text encoder and projection, and return the bytes given back.

        Their parameters stay in place by name and shape, on the meta device.
        """
        modules = (self._sam3.text_encoder, self._sam3.text_projection)
        freed: int = sum(p.nbytes for module in modules for p in module.parameters() if not p.is_meta)
        for module in modules:
            module.to("meta")
        return freed

    @torch.no_grad()
    def restore_encoder(self, source: WeightSource) -> None:
        """Put the released weights back on the cache's device, as `source` holds them.

        Raises:
            ModelUnusable: the source went away, or holds other weights: some phrase now has other features.
        """
        sam3 = self._sam3
        device = sam3.detr_encoder.layers[0].layer_norm1.weight.device
        dtype = sam3.detr_encoder.layers[0].layer_norm1.weight.dtype
        for module in (sam3.text_encoder, sam3.text_projection):
            module.to_empty(device=device)
        position_ids = sam3.text_encoder.text_model.embeddings.position_ids
        position_ids.copy_(torch.arange(position_ids.shape[-1], device=device).expand_as(position_ids))
        state = {name: value for name, value in sam3.state_dict().items() if name.startswith(TEXT_PREFIXES)}
        for name, stored in source.read(sorted(state)):
            state[name].copy_(stored.to(dtype))
        self._check_restored()

    def _check_restored(self) -> None:
        """Encode one cached phrase again: other weights would be exported silently."""
        if not self._rows:
            return
        phrase = next(iter(self._rows))
        probe = PhraseCache(self._sam3, self._tokenizer)
        probe.add([phrase])
        features, _ = self.gather([phrase], self._sam3.text_projection.weight.device)
        if not torch.equal(probe._features_NKd, features):
            raise ModelUnusable(
                "the text encoder's weights changed where the model was loaded from; put the original files back"
            )
