"""Random weights learn real images: four of them are overfitted, boxes and masks, on the CPU. Times are printed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]
CELLS = ROOT / "examples" / "blood-cells" / "train"
DEFECTS = ROOT / "tests" / "assets" / "lpbf" / "train"
WINDOW = 120
SETTINGS = [
    "scratch.resolution=224",
    "scratch.train_batch_size=4",
    "scratch.precision=fp32",
    "model.dropout=0",
    "model.attention_dropout=0",
    "model.drop_path=0",
    "augment.resize_and_pad=false",
    "optim.lr=4e-4",
    "optim.lr_vision_backbone=4e-4",
    "optim.lr_language_backbone=4e-4",
    "optim.layer_decay=1.0",
    "optim.weight_decay=1e-4",
    "optim.timescale=1000",
    "optim.cooldown=60",
    "evaluation.every_epochs=null",
    "evaluation.baseline=false",
    "runtime.tensorboard=false",
    "checkpoint.every_steps=null",
]


def make_data(source: Path, folder: Path, image_ids: set[int]) -> Path:
    """The same few images as train and as valid: what is asked is whether they can be learned at all."""
    document = json.loads((source / "_annotations.coco.json").read_text())
    document["images"] = [image for image in document["images"] if image["id"] in image_ids]
    document["annotations"] = [item for item in document["annotations"] if item["image_id"] in image_ids]
    images = source / "images" if (source / "images").is_dir() else source
    for split in ("train", "valid"):
        (folder / split).mkdir(parents=True)
        for image in document["images"]:
            shutil.copy(images / image["file_name"], folder / split)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


def make_close_ups(source: Path, folder: Path, image_ids: set[int]) -> Path:
    """A window of `WINDOW` pixels around the largest defect of each image: a whole image would shrink it to a few."""
    document = json.loads((source / "_annotations.coco.json").read_text())
    images, annotations = [], []
    for split in ("train", "valid"):
        (folder / split).mkdir(parents=True)
    for image in (entry for entry in document["images"] if entry["id"] in image_ids):
        objects = [item for item in document["annotations"] if item["image_id"] == image["id"]]
        x, y, w, h = max(objects, key=lambda item: item["bbox"][2] * item["bbox"][3])["bbox"]
        left = int(min(max(0, x + w / 2 - WINDOW / 2), image["width"] - WINDOW))
        top = int(min(max(0, y + h / 2 - WINDOW / 2), image["height"] - WINDOW))
        with Image.open(source / "images" / image["file_name"]) as picture:
            crop = picture.convert("RGB").crop((left, top, left + WINDOW, top + WINDOW))
        for split in ("train", "valid"):
            crop.save(folder / split / f"{image['id']}.png")
        images.append({"id": image["id"], "file_name": f"{image['id']}.png", "width": WINDOW, "height": WINDOW})
        annotations += [moved for item in objects if (moved := _moved(item, left, top)) is not None]
    numbered = [item | {"id": number} for number, item in enumerate(annotations, start=1)]
    content = {"images": images, "annotations": numbered, "categories": document["categories"]}
    for split in ("train", "valid"):
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def _moved(item: dict[str, Any], left: int, top: int) -> dict[str, Any] | None:
    """An annotation in the window's own pixels; None when it does not lie wholly inside."""
    x, y, w, h = item["bbox"][0] - left, item["bbox"][1] - top, *item["bbox"][2:]
    if x < 0 or y < 0 or x + w > WINDOW or y + h > WINDOW:
        return None
    polygons = [
        [value - (left if place % 2 == 0 else top) for place, value in enumerate(polygon)]
        for polygon in item["segmentation"]
    ]
    return item | {"bbox": [x, y, w, h], "segmentation": polygons}


def overfit(data: Path, work_dir: Path, steps: int, *settings: str) -> dict[str, Any]:
    started = time.monotonic()
    command = [sys.executable, "-m", "sam3ft_trainer", "train", "--work-dir", str(work_dir), f"data.uri={data}"]
    ended = subprocess.run(
        [*command, f"scratch.max_steps={steps}", *SETTINGS, *settings],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())},
        timeout=1500,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    metrics: dict[str, Any] = json.loads((work_dir / "scores.json").read_text())["final"]["metrics"]
    print(f"{steps} steps in {time.monotonic() - started:.0f} s: {metrics}")
    return metrics


@pytest.mark.soak
@pytest.mark.timeout(1600)
def test_four_images_are_overfitted_to_box_ap50_of_four_fifths(tmp_path: Path) -> None:
    data = make_data(CELLS, tmp_path / "data", {1, 2, 3, 4})

    metrics = overfit(data, tmp_path / "work", 220)

    assert metrics["bbox_AP50"] >= 0.8


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_four_images_are_overfitted_to_mask_ap50_of_a_half(tmp_path: Path) -> None:
    data = make_close_ups(DEFECTS, tmp_path / "data", {2, 5, 6, 7})

    metrics = overfit(data, tmp_path / "work", 130, "scratch.enable_segmentation=true")

    assert metrics["segm_AP50"] >= 0.5
    assert metrics["bbox_AP50"] >= 0.5
