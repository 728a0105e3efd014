"""The export loads with the public calls, without a warning, and computes what was trained.

A fresh process takes seconds to import torch; most tests run its code in this process, those marked slow the real one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Sam3Model, Sam3VideoConfig, Sam3VideoModel

from sam3ft_api.errors import ModelUnusable, StorageDenied
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.export.card import CardCategory, CardFacts, CardScores
from sam3ft_trainer.export.check import CheckInputs, check_folder, forward_outputs
from sam3ft_trainer.export.folder import rounded_state, write_folder
from sam3ft_trainer.export.package import ExportPlan, export_model
from sam3ft_trainer.export.publish import MANIFEST, verify_folder
from sam3ft_trainer.export.reload import run
from sam3ft_trainer.model.load import LoadedModel, load_model
from sam3ft_trainer.model.presets import preset_config
from sam3ft_trainer.model.processor import build_processor
from sam3ft_trainer.model.text import PhraseCache, byte_tokenizer
from sam3ft_trainer.tensors import Batch, Targets

SIDE = 112
MODEL = ModelConfig()


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.set_num_threads(1)
    model = load_model("preset:tiny-micro", MODEL, resolution=SIDE, device="cpu", seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as if trained: no tensor keeps its initial value
        for tensor in model.sam3.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)
    return model


@pytest.fixture(scope="module")
def inputs(loaded: LoadedModel) -> CheckInputs:
    pixels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    batch = Batch(
        pixels_I3SS=pixels,
        phrases=("red blood cell", "platelet"),
        img_idx_B=torch.tensor([0, 0, 1, 1]),
        txt_idx_B=torch.tensor([0, 1, 0, 1]),
        targets=Targets(torch.zeros(0, 4), torch.zeros(4, dtype=torch.int64)),
        image_ids=(1, 2),
        category_ids=(1, 2, 1, 2),
    )
    return CheckInputs.from_batch(batch, loaded.tokenizer, max_pairs=3)


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        run(request)
        return json.loads((Path(request["work"]) / "answer.json").read_text())

    monkeypatch.setattr("sam3ft_trainer.export.check._run_fresh", answer)


def _facts(**changes: object) -> CardFacts:
    given: dict[str, object] = {
        "name": "blood",
        "task": "segmentation",
        "base_model": "preset:tiny-micro",
        "resolution": SIDE,
        "geometry_cls": True,
        "settings": {"optimizer updates": 10},
        "images": 20,
        "categories": (CardCategory(name="RBC", phrases=("red blood cell", "erythrocyte"), objects=31),),
        "scored_images": 5,
        "scores": (CardScores(label="fine-tuned", metrics={"bbox_AP": 0.25, "cgF1": None}),),
    }
    return CardFacts.model_validate(given | changes)


def _plan(destination: Path | str, inputs: CheckInputs, tmp_path: Path, **changes: object) -> ExportPlan:
    given: dict[str, object] = {"dtype": "float32", "config": MODEL, "inputs": inputs}
    return ExportPlan(destination=str(destination), scratch=tmp_path / "scratch", **(given | changes))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_is_checked_in_a_fresh_process_and_put_in_place(
    loaded: LoadedModel, inputs: CheckInputs, tmp_path: Path, dtype: str
) -> None:
    result = export_model(
        loaded.sam3, loaded.tokenizer, _facts(), _plan(tmp_path / "out", inputs, tmp_path, dtype=dtype)
    )

    folder = tmp_path / "out"
    assert str(folder) == result.address
    assert ((), (), ()) == (result.check.warnings, result.check.missing_keys, result.check.unexpected_keys)
    assert 5 == result.check.num_outputs
    assert result.check.largest_difference <= 1e-6
    assert [folder] == sorted(path for path in tmp_path.iterdir() if path.name != "scratch")
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(
        verify_folder(folder)["files"]
    )
    config = json.loads((folder / "config.json").read_text())
    assert ("sam3", dtype, ["Sam3Model"]) == (config["model_type"], config["dtype"], config["architectures"])
    assert {getattr(torch, dtype)} == {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


@pytest.mark.slow
@pytest.mark.usefixtures("same_process")
def test_the_code_of_the_card_runs_as_it_stands(loaded: LoadedModel, inputs: CheckInputs, tmp_path: Path) -> None:
    folder = tmp_path / "out 'quoted'"
    export_model(loaded.sam3, loaded.tokenizer, _facts(), _plan(folder, inputs, tmp_path))
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    Image.new("RGB", (90, 60), (200, 40, 40)).save(tmp_path / "image.jpg")
    probe = "\nimport json; print(json.dumps([outputs.pred_logits.tolist(), outputs.presence_logits.tolist()]))\n"

    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code.replace("threshold=0.5", "threshold=0.0") + probe],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == finished.returncode, finished.stderr
    *detections, outputs = finished.stdout.strip().splitlines()
    assert 16 == len(detections)
    logits, presence = json.loads(outputs)
    pixels = build_processor(loaded.tokenizer, SIDE)(images=Image.open(tmp_path / "image.jpg"), return_tensors="pt")
    ids, mask, _ = loaded.tokenizer.encode(["red blood cell"])
    zero = torch.zeros(1, dtype=torch.int64)
    as_bytes = ((pixels["pixel_values"] * 0.5 + 0.5) * 255).round().to(torch.uint8)
    trainer = forward_outputs(loaded.sam3, CheckInputs(as_bytes, ids, mask, zero, zero), MODEL, masks=True)
    torch.testing.assert_close(trainer["logits"][-1], torch.tensor(logits), atol=1e-5, rtol=0)
    torch.testing.assert_close(trainer["presence"][-1], torch.tensor(presence)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("same_process")
def test_an_export_replaces_an_earlier_one_and_nothing_else(
    loaded: LoadedModel, inputs: CheckInputs, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    plan = _plan(folder, inputs, tmp_path)
    export_model(loaded.sam3, loaded.tokenizer, _facts(name="first"), plan)
    export_model(loaded.sam3, loaded.tokenizer, _facts(name="second"), plan)
    (folder / "thesis.txt").write_text("mine")

    with pytest.raises(StorageDenied, match=r"holds 1 files that no export of sam3ft wrote \(thesis.txt\)"):
        export_model(loaded.sam3, loaded.tokenizer, _facts(), plan)

    assert "# second" in (folder / "README.md").read_text()
    assert "mine" == (folder / "thesis.txt").read_text()


def test_released_text_weights_are_refused_before_anything_is_written(inputs: CheckInputs, tmp_path: Path) -> None:
    loaded = load_model("preset:tiny-nano", MODEL, resolution=28, device="cpu", seed=1)
    loaded.sam3.text_encoder.to("meta")

    with pytest.raises(ModelUnusable, match="not in memory; restore the text encoder"):
        export_model(loaded.sam3, loaded.tokenizer, _facts(), _plan(tmp_path / "out", inputs, tmp_path))

    assert [] == list(tmp_path.rglob("*.json"))


def test_weights_that_overflow_the_dtype_are_refused(inputs: CheckInputs, tmp_path: Path) -> None:
    loaded = load_model("preset:tiny-nano", MODEL, resolution=28, device="cpu", seed=1)
    with torch.no_grad():
        loaded.sam3.text_projection.weight[0, 0] = 1e6

    with pytest.raises(ModelUnusable, match=r"text_projection.weight.*not finite as float16"):
        export_model(
            loaded.sam3, loaded.tokenizer, _facts(), _plan(tmp_path / "out", inputs, tmp_path, dtype="float16")
        )


@pytest.fixture
def plain_folder(loaded: LoadedModel, tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    state = rounded_state(loaded.sam3, "float32")
    write_folder(folder, loaded.sam3, build_processor(loaded.tokenizer, SIDE), state=state, dtype="float32")
    return folder


@pytest.mark.usefixtures("same_process")
def test_the_check_refuses_other_weights(loaded: LoadedModel, inputs: CheckInputs, plain_folder: Path) -> None:
    expected = forward_outputs(loaded.sam3, inputs, MODEL, masks=False)
    expected["boxes"] = expected["boxes"] + 1e-5

    with pytest.raises(ModelUnusable, match=r"outputs differ from the trained model's by 1e-05, allowed is 1e-06"):
        check_folder(plain_folder, expected, inputs, MODEL, masks=False)


@pytest.mark.usefixtures("same_process")
def test_the_check_refuses_warnings_and_missing_tensors(
    loaded: LoadedModel, inputs: CheckInputs, plain_folder: Path
) -> None:
    state = rounded_state(loaded.sam3, "float32")
    del state["dot_product_scoring.query_proj.weight"]
    write_folder(plain_folder, loaded.sam3, build_processor(loaded.tokenizer, SIDE), state=state, dtype="float32")
    expected = forward_outputs(loaded.sam3, inputs, MODEL, masks=False)

    with pytest.raises(ModelUnusable, match=r"warnings .*1 missing tensors \(dot_product_scoring.query_proj.weight\)"):
        check_folder(plain_folder, expected, inputs, MODEL, masks=False)


@pytest.mark.usefixtures("same_process")
def test_a_damaged_export_is_recognised(loaded: LoadedModel, inputs: CheckInputs, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_model(loaded.sam3, loaded.tokenizer, _facts(), _plan(folder, inputs, tmp_path))
    weights = folder / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)

    with pytest.raises(ModelUnusable, match=r"1 files are missing or damaged \(model.safetensors\)"):
        verify_folder(folder)

    (folder / MANIFEST).unlink()
    with pytest.raises(ModelUnusable, match="not an export, or an unfinished one"):
        verify_folder(folder)


def test_large_weights_are_split_over_files(
    loaded: LoadedModel, inputs: CheckInputs, plain_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam3ft_trainer.export.folder.SHARD_BYTES", 400_000)
    (plain_folder / "model.safetensors").unlink()

    state = rounded_state(loaded.sam3, "float32")
    write_folder(plain_folder, loaded.sam3, build_processor(loaded.tokenizer, SIDE), state=state, dtype="float32")

    assert len(list(plain_folder.glob("model-*.safetensors"))) >= 2
    assert state.keys() == Sam3Model.from_pretrained(plain_folder).state_dict().keys()


@pytest.mark.usefixtures("same_process")
def test_a_detector_from_a_video_folder_with_text_put_away_exports_as_a_plain_model(
    inputs: CheckInputs, tmp_path: Path
) -> None:
    detector = preset_config("tiny-micro")
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": detector.vision_config.backbone_config.to_dict(),
            "fpn_hidden_size": 32,
        },
        "memory_attention_num_layers": 1,
    }
    config = Sam3VideoConfig(detector_config=detector.to_dict(), tracker_config=tracker)
    config.image_size = SIDE
    Sam3VideoModel(config).save_pretrained(tmp_path / "video")
    byte_tokenizer().save_pretrained(tmp_path / "video")
    loaded = load_model(str(tmp_path / "video"), MODEL, resolution=SIDE, device="cpu", seed=1)
    cache = PhraseCache(loaded.sam3, loaded.tokenizer)
    cache.add(["red blood cell"])
    cache.release_encoder()
    cache.restore_encoder(loaded.source)

    result = export_model(loaded.sam3, loaded.tokenizer, _facts(), _plan(tmp_path / "out", inputs, tmp_path))

    # Not always 0: where a freshly loaded weight lies in memory decides about the last bits of a product.
    assert result.check.largest_difference < 1e-6
    assert "sam3" == json.loads((tmp_path / "out" / "config.json").read_text())["model_type"]
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert not {name for name in names if name.startswith(("detector_model.", "tracker"))}
    assert "text_encoder.text_model.final_layer_norm.weight" in names
