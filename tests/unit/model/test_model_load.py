"""Published folders: both layouts, a strict account of keys, and refusals that say what to do."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam3Model, Sam3VideoConfig, Sam3VideoModel

from sam3ft_api.errors import InvalidConfig, ModelUnusable
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.load import LoadReport, load_model, read_model_config
from sam3ft_trainer.model.processor import build_processor
from sam3ft_trainer.model.text import Tokenizer, byte_tokenizer
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions

CONFIG = ModelConfig()
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(sam3: Sam3Model, tmp_path: Path):
    """A plain Sam3Model as transformers saves it."""
    path = tmp_path / "plain"
    sam3.save_pretrained(path)
    build_processor(Tokenizer(byte_tokenizer()), 112).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def video_model():
    """A tiny Sam3VideoModel: detector and tracker as transformers builds them."""
    from sam3ft_trainer.model.presets import preset_config  # noqa: PLC0415 - a module fixture outlives the others

    detector = preset_config("tiny-micro")
    backbone = detector.vision_config.backbone_config.to_dict()
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": {"model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 32},
        "memory_attention_num_layers": 1,
    }
    config = Sam3VideoConfig(detector_config=detector.to_dict(), tracker_config=tracker)
    config.image_size = 112
    return Sam3VideoModel(config)


def load(path: Path | str, *, resolution: int = 112, config: Any = CONFIG, **changes: Any):
    return load_model(str(path), config, resolution=resolution, device="cpu", seed=0, **changes)


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]):
    """Rewrite the folder's weights after `change` of the dictionary."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def assert_same_weights(expected: Any, actual: Any):
    expected, actual = expected.state_dict(), actual.state_dict()
    assert set(expected) == set(actual)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_plain_folder_loads_bit_for_bit(sam3: Sam3Model, folder: Path):
    loaded = load(folder)

    assert_same_weights(sam3, loaded.sam3)
    assert LoadReport(num_loaded=320, stored_dtypes=(("float32", 320),)) == loaded.report
    assert str(folder.resolve()) == loaded.origin
    assert "320 tensors loaded (320 float32)" == loaded.report.summary()
    assert 1 == loaded.tokenizer.encode(["x" * 99])[2]


def test_a_loaded_model_computes_what_the_saved_one_did(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    folder: Path,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    expected = outputs_of(predict(TrainingModel(sam3, no_dropout), inputs))

    actual = outputs_of(predict(TrainingModel(load(folder).sam3, no_dropout), inputs))

    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


def test_parameters_own_their_memory_and_are_aligned_as_fresh_ones(folder: Path):
    parameters = list(load(folder).sam3.parameters())

    assert all(p.storage_offset() == 0 and p.untyped_storage().nbytes() == p.nbytes for p in parameters)
    assert all(p.data_ptr() % 64 == 0 for p in parameters)


def test_a_video_folder_loads_its_detector_and_counts_the_tracker(video_model: Sam3VideoModel, tmp_path: Path):
    video_model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    tracker = [k for k in video_model.state_dict() if not k.startswith("detector_model.")]

    loaded = load(tmp_path)

    assert_same_weights(video_model.detector_model, loaded.sam3)
    assert (len(tracker), ()) == (loaded.report.num_tracker_ignored, loaded.report.unexpected)
    assert f"{len(tracker)} of the video tracker ignored" in loaded.report.summary()


def test_the_same_weights_have_the_same_digest_in_both_layouts_and_in_shards(
    video_model: Sam3VideoModel, tmp_path: Path
):
    byte_tokenizer().save_pretrained(tmp_path / "video")
    for name in ("plain", "shards"):
        byte_tokenizer().save_pretrained(tmp_path / name)
    video_model.save_pretrained(tmp_path / "video")
    video_model.detector_model.save_pretrained(tmp_path / "plain")
    video_model.detector_model.save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    assert 1 < len(list((tmp_path / "shards").glob("*.safetensors")))

    digests = [load(tmp_path / name).digest for name in ("video", "plain", "shards")]

    assert 1 == len(set(digests))
    edit(tmp_path / "plain", lambda tensors: tensors["text_projection.bias"].add_(1))
    assert digests[0] != load(tmp_path / "plain").digest


def test_a_missing_shard_is_named(sam3: Sam3Model, folder: Path):
    (folder / WEIGHTS).unlink()
    sam3.save_pretrained(folder, max_shard_size="300KB")
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()

    with pytest.raises(ModelUnusable, match=rf"1 are missing \({lost.name}\)"):
        load(folder)


def test_missing_tensors_are_refused_with_their_names(folder: Path):
    edit(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("mask_decoder.")])

    with pytest.raises(
        ModelUnusable, match=r"lacks 32 of the model's 320 tensors: mask_decoder\.instance_proj.*\.\.\."
    ):
        load(folder)


def test_unexpected_tensors_are_reported_and_not_used(sam3: Sam3Model, folder: Path):
    edit(folder, lambda tensors: tensors.update(surplus=torch.zeros(2)))

    loaded = load(folder)

    assert ("surplus",) == loaded.report.unexpected
    assert "1 unexpected (surplus)" in loaded.report.summary()
    assert_same_weights(sam3, loaded.sam3)


def test_a_tensor_of_another_shape_is_refused(folder: Path):
    edit(folder, lambda tensors: tensors.update({"text_projection.bias": torch.zeros(3)}))

    with pytest.raises(
        ModelUnusable, match=r"text_projection.bias in .* has the shape \(3,\), config.json says \(32,\)"
    ):
        load(folder)


def test_a_tensor_stored_twice_is_refused(folder: Path):
    save_file({"text_projection.bias": torch.zeros(32)}, folder / "again.safetensors")

    with pytest.raises(ModelUnusable, match=r"text_projection.bias is stored twice"):
        load(folder)


def test_quantised_weights_are_refused(folder: Path):
    edit(folder, lambda tensors: tensors.update({"text_projection.bias": torch.zeros(32, dtype=torch.int8)}))

    with pytest.raises(ModelUnusable, match=r"stored as torch.int8; quantised weights cannot be trained"):
        load(folder)


def test_low_precision_weights_are_widened_and_counted(sam3: Sam3Model, folder: Path):
    edit(folder, lambda tensors: tensors.update({name: value.bfloat16() for name, value in tensors.items()}))

    loaded = load(folder)

    assert (("bfloat16", 320),) == loaded.report.stored_dtypes
    assert {torch.float32} == {p.dtype for p in loaded.sam3.parameters()}
    torch.testing.assert_close(loaded.sam3.text_projection.weight, sam3.text_projection.weight, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "sam3.pt", "last.ckpt"])
def test_pickled_weights_are_refused_unopened(folder: Path, name: str):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(b"\x80\x02cposix\nsystem\n")

    with pytest.raises(ModelUnusable, match=rf"only pickled weights \({name}\), which can run code"):
        load(folder)


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / WEIGHTS).unlink()

    with pytest.raises(ModelUnusable, match=r"has no \*.safetensors file"):
        load(folder)


def test_a_damaged_weight_file_is_refused(folder: Path):
    (folder / WEIGHTS).write_bytes(b"\xff" * 64)

    with pytest.raises(ModelUnusable, match="not a readable safetensors file"):
        load(folder)


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(ModelUnusable, match="nowhere does not exist; give a folder, hf://"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json cannot be read: No such file"),
        ("{", "not valid JSON"),
        ("[1]", "holds list, expected a JSON object"),
        ('{"model_type": "bert"}', "model_type 'bert'; sam3ft trains 'sam3'"),
        ('{"model_type": "sam3", "vision_config": {"fpn_hidden_size": "wide"}}', "does not describe a SAM 3 model"),
    ],
)
def test_an_unusable_config_is_refused(folder: Path, text: str | None, message: str):
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)

    with pytest.raises(ModelUnusable, match=message):
        load(folder)


@pytest.mark.parametrize("uri", ["s3://bucket/model", "https://example.org/model"])
def test_an_address_of_another_scheme_is_refused(uri: str):
    with pytest.raises(
        InvalidConfig, match=r"allowed are a folder, file://FOLDER, hf://ORG/NAME@REVISION and preset:NAME"
    ):
        load(uri)


def test_a_file_address_is_a_folder(folder: Path):
    assert load(folder).digest == load(f"file://{folder}").digest


def test_another_resolution_changes_positions_and_no_weight(
    sam3: Sam3Model, folder: Path, no_dropout: ModelConfig, inputs: tuple[Tensor, ...]
):
    loaded = load(folder, resolution=168)
    model = TrainingModel(loaded.sam3, no_dropout)
    pixels = torch.zeros(1, 3, 168, 168)
    first = torch.tensor([0])

    found = model(pixels, inputs[1][:1], inputs[2][:1], first, first, o2m=False, masks=True)

    assert_same_weights(sam3, loaded.sam3)
    assert (1, 16, 48, 48) == tuple(found.masks_BQhw.shape)
    assert 168 == loaded.sam3.config.image_size


def test_a_resolution_off_the_patch_grid_is_refused(folder: Path):
    with pytest.raises(
        InvalidConfig, match=r"resolution 113 is not a multiple of the model's patch size 14; .* 112 and 126"
    ):
        load(folder, resolution=113)


def test_the_layer_norm_epsilon_can_be_set(folder: Path):
    kept = load(folder).sam3.vision_encoder.backbone.layers[0].layer_norm1.eps
    changed = load(folder, config=ModelConfig(vit_layer_norm_eps=1e-5)).sam3

    assert 1e-6 == kept
    assert {1e-5} == {layer.layer_norm2.eps for layer in changed.vision_encoder.backbone.layers}
    assert (
        1e-5
        == read_model_config(str(folder), ModelConfig(vit_layer_norm_eps=1e-5), resolution=112).to_dict()[
            "vision_config"
        ]["backbone_config"]["layer_norm_eps"]
    )


def test_loading_leaves_the_random_state_alone_and_says_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    state = torch.get_rng_state()

    with caplog.at_level(logging.WARNING):
        load(folder)
        load("preset:tiny-nano", resolution=28)

    assert torch.equal(state, torch.get_rng_state())
    assert ([], "", "") == (caplog.records, *capfd.readouterr())


def test_initial_weights_can_be_read_again(folder: Path):
    loaded = load(folder)
    names = ["text_projection.bias", "detr_decoder.query_embed.weight"]

    again = dict(loaded.source.read(names))

    assert all(torch.equal(again[name], loaded.sam3.state_dict()[name]) for name in names)
    shutil.rmtree(folder)
    with pytest.raises(ModelUnusable, match="cannot be read any more"):
        list(loaded.source.read(names))


def test_a_preset_is_a_function_of_its_seed():
    def digest(seed: int) -> str:
        return load_model("preset:tiny-nano", CONFIG, resolution=28, device="cpu", seed=seed).digest

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InvalidConfig, match="'preset:huge' is unknown; presets are tiny, tiny-demo, tiny-nano"):
        load("preset:huge")


def test_the_real_size_has_its_shapes_without_memory():
    loaded = load_model("preset:sam3", CONFIG, resolution=1008, device="meta", seed=0)

    assert (840_376_374, "meta", "") == (loaded.sam3.num_parameters(), loaded.sam3.device.type, loaded.digest)


def test_the_architecture_can_be_read_without_weights(folder: Path):
    (folder / WEIGHTS).unlink()

    config = read_model_config(str(folder), CONFIG, resolution=224)

    assert (224, 16) == (config.image_size, config.detr_decoder_config.num_queries)
    assert 50 == read_model_config("preset:tiny", CONFIG, resolution=224).detr_decoder_config.num_queries
    assert "sam3" == json.loads((folder / "config.json").read_text())["model_type"]
