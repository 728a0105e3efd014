"""Small COCO folders, written to a temporary place."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam3ft_api.training import TrainingConfig

torch.set_num_threads(1)
WIDTH, HEIGHT = 60, 40
Document = dict[str, Any]


@pytest.fixture
def document() -> Document:
    """Two images, two categories, three annotations: a polygon, a compressed RLE, a box alone."""
    return {
        "images": [
            {"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "2.jpg", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 10, 20, 10],
                "segmentation": [[10, 10, 30, 10, 30, 20]],
            },
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5]},
            {
                "id": 3,
                "image_id": 2,
                "category_id": 1,
                "bbox": [0, 0, 60, 40],
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]},
            },
        ],
    }


def jpeg(*, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def write_split(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes one split below `tmp_path` and returns its folder."""

    def write(document: Document, *, split: str = "train", images: bool = True) -> Path:
        folder = tmp_path / split
        folder.mkdir(exist_ok=True)
        (folder / "_annotations.coco.json").write_text(json.dumps(document))
        for entry in document["images"] if images else ():
            path = folder / entry["file_name"]
            if not path.exists():
                path.parent.mkdir(exist_ok=True, parents=True)
                path.write_bytes(jpeg(width=entry["width"], height=entry["height"], seed=entry["id"]))
        return folder

    return write


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., TrainingConfig]:
    """Return a function that makes a configuration for the data below `tmp_path`; train is not split unless asked."""

    def make(*, hold_out: bool = False, resolution: int = 56, **sections: Any) -> TrainingConfig:
        annotations = str(tmp_path / "train" / "_annotations.coco.json")
        data = {"uri": str(tmp_path)} | ({} if hold_out else {"valid": {"annotations": annotations}})
        scratch = {"resolution": resolution, "train_batch_size": 4}
        merged = {**sections, "data": data | sections.get("data", {}), "scratch": scratch | sections.get("scratch", {})}
        return TrainingConfig.model_validate(merged)

    return make


@pytest.fixture
def many_images() -> Callable[[int], Document]:
    """Return a function that makes a document of n images with one or two objects each."""

    def make(count: int) -> Document:
        return {
            "images": [{"id": 10 + n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(count)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {
                    "id": 2 * n + k,
                    "image_id": 10 + n,
                    "category_id": 1 + (n + k) % 2,
                    "bbox": [5 + k, 5, 20, 15],
                    "segmentation": [[5 + k, 5, 25 + k, 5, 25 + k, 20, 5 + k, 20]],
                }
                for n in range(count)
                for k in range(1 + n % 2)
            ],
        }

    return make
