"""Tokens of phrases, and the cache of their features."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Sam3Model

from sam3ft_api.errors import ModelUnusable
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.load import PresetWeights
from sam3ft_trainer.model.presets import build_preset, preset_config
from sam3ft_trainer.model.text import BYTE_VOCABULARY_SIZE, PhraseCache, Tokenizer, byte_tokenizer
from sam3ft_trainer.model.training import TrainingModel

CPU = torch.device("cpu")


def test_a_phrase_is_framed_and_padded_with_zeros():
    tokenizer = Tokenizer(byte_tokenizer())

    ids, mask, truncated = tokenizer.encode(["cat"])

    start, end = tokenizer.pretrained.bos_token_id, tokenizer.pretrained.eos_token_id
    assert ((1, 32), torch.int64, 0) == (tuple(ids.shape), ids.dtype, truncated)
    assert [start, end] == [int(ids[0, 0]), int(ids[0, 4])]
    assert [1] * 5 + [0] * 27 == mask[0].tolist()
    assert not ids[0, 5:].any()


def test_a_long_phrase_keeps_its_start_and_its_end_token_and_is_counted():
    tokenizer = Tokenizer(byte_tokenizer())

    ids, mask, truncated = tokenizer.encode(["x" * 30, "y" * 31, "z" * 500])

    assert 2 == truncated
    assert mask.all()
    assert [tokenizer.pretrained.eos_token_id] * 3 == ids[:, -1].tolist()
    assert torch.equal(ids[2, 1:30], ids[2, 1:2].expand(29))


def test_any_text_has_tokens_of_the_vocabulary():
    phrases = ["Größe ✓", "赤血球", "", "a\tb\n", "🦠" * 3, "<|endoftext|>"]

    ids, mask, _ = Tokenizer(byte_tokenizer()).encode(phrases)

    assert int(ids.max()) < BYTE_VOCABULARY_SIZE
    assert bool((mask.sum(1) >= 2).all())
    assert len({tuple(row.tolist()) for row in ids}) == len(phrases)


def test_case_and_white_space_make_no_difference_as_in_clip():
    ids, _, _ = Tokenizer(byte_tokenizer()).encode(["Red  Cell", "red cell"])

    assert torch.equal(ids[0], ids[1])


def test_no_phrase_gives_empty_rows():
    ids, mask, truncated = Tokenizer(byte_tokenizer()).encode([])

    assert ((0, 32), (0, 32), 0) == (tuple(ids.shape), tuple(mask.shape), truncated)


def test_a_saved_tokenizer_reads_back_the_same(tmp_path: Path):
    tokenizer = Tokenizer(byte_tokenizer())
    tokenizer.pretrained.save_pretrained(tmp_path)
    phrases = ["the thin red cell", "Ω"]

    read = Tokenizer.from_folder(tmp_path, vocabulary=BYTE_VOCABULARY_SIZE)

    assert torch.equal(tokenizer.encode(phrases)[0], read.encode(phrases)[0])


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(ModelUnusable, match=r"no tokenizer \(tokenizer.json or vocab.json\)"):
        Tokenizer.from_folder(tmp_path, vocabulary=600)


def test_an_unreadable_tokenizer_is_refused(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))

    with pytest.raises(ModelUnusable, match="cannot be read"):
        Tokenizer.from_folder(tmp_path, vocabulary=600)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path):
    byte_tokenizer().save_pretrained(tmp_path)

    with pytest.raises(ModelUnusable, match="518 entries, the text encoder 500"):
        Tokenizer.from_folder(tmp_path, vocabulary=500)


@pytest.fixture
def cache(sam3: Sam3Model):
    return PhraseCache(sam3, Tokenizer(byte_tokenizer()))


def test_cached_features_are_those_of_the_encoder_whatever_was_cached_with_them(
    sam3: Sam3Model, no_dropout: ModelConfig, cache: PhraseCache
):
    model = TrainingModel(sam3, no_dropout)
    ids, mask, _ = Tokenizer(byte_tokenizer()).encode(["platelet"])
    expected = model.encode_text(ids, mask).features_TKd

    assert (2, 1, 0) == (cache.add(["red", "platelet", "red"]), cache.add(["white", "red"]), cache.add(["white"]))
    features, masks = cache.gather(["white", "platelet"], CPU)

    assert ((2, 32, 32), 3) == (tuple(features.shape), len(cache))
    assert torch.equal(expected[0], features[1])
    assert torch.equal(mask[0], masks[1])
    assert not features.requires_grad


def test_autocast_does_not_lower_the_precision_of_cached_features(cache: PhraseCache):
    with torch.autocast("cpu", torch.bfloat16):
        cache.add(["red"])

    assert torch.float32 == cache.gather(["red"], CPU)[0].dtype


def test_cut_phrases_are_counted(cache: PhraseCache):
    cache.add(["x" * 100, "short"])

    assert 1 == cache.num_truncated


def test_an_unknown_phrase_is_named(cache: PhraseCache):
    cache.add(["red"])

    with pytest.raises(LookupError, match="1 phrases are not in the cache of 1: \\['blue'\\]"):
        cache.gather(["red", "blue"], CPU)


def test_a_released_encoder_gives_its_memory_back_and_returns_bit_for_bit(sam3: Sam3Model, cache: PhraseCache):
    before = {name: value.clone() for name, value in sam3.state_dict().items()}
    text_bytes = sum(v.nbytes for name, v in before.items() if name.startswith(("text_encoder", "text_projection")))
    cache.add(["red", "blue"])
    source = _source_like(sam3)

    freed = cache.release_encoder()

    assert text_bytes == freed
    assert sam3.text_projection.weight.is_meta
    assert not sam3.detr_encoder.layers[0].layer_norm1.weight.is_meta
    with pytest.raises(RuntimeError, match="released"):
        cache.add(["green"])
    cache.restore_encoder(source)
    assert all(torch.equal(before[name], value) for name, value in sam3.state_dict().items())
    assert 1 == cache.add(["green"])


def test_restoring_from_changed_weights_is_refused(cache: PhraseCache):
    cache.add(["red"])
    cache.release_encoder()

    with pytest.raises(ModelUnusable, match="weights changed"):
        cache.restore_encoder(PresetWeights(preset_config("tiny-micro"), seed=2))


def _source_like(sam3: Sam3Model) -> PresetWeights:
    """The fixture's text encoder is that of the preset with seed 1."""
    source = PresetWeights(preset_config("tiny-micro"), seed=1)
    name = "text_projection.weight"
    assert torch.equal(dict(source.read([name]))[name], sam3.state_dict()[name])
    assert torch.equal(build_preset(source.config, seed=1).text_projection.weight, sam3.text_projection.weight)
    return source
