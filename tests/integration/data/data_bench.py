"""One data set at two places, and how both are opened."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from s3_server import S3Server

from sam3ft_api.training import ModelConfig, TrainingConfig
from sam3ft_api.worker import ENV_CACHE_DIR, ENV_STORAGE_PROFILES
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.figures import merged
from sam3ft_trainer.data.pipeline import StepBatches, TrainLoader
from sam3ft_trainer.export.folder import rounded_state, write_folder
from sam3ft_trainer.model.load import load_model
from sam3ft_trainer.model.processor import build_processor

WIDTH, HEIGHT = 60, 40
SIDE = 28
"""Of what `write_model` takes, px."""
Document = dict[str, Any]


def jpeg(seed: int) -> bytes:
    """Return a small JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_document(count: int) -> Document:
    """Return annotations of `count` images, with boxes and polygons."""
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


def write_split(folder: Path, document: Document, *, below: str = "") -> Path:
    """Write annotations, and the images beside them or in the folder `below`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_annotations.coco.json").write_text(json.dumps(document))
    for entry in document["images"]:
        path = folder / below / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(entry["id"]))
    return folder


def write_model(folder: Path, *, seed: int) -> Path:
    """Write a small model as it is published, and return its folder."""
    folder.mkdir(exist_ok=True)
    loaded = load_model("preset:tiny-nano", ModelConfig(), resolution=SIDE, device="cpu", seed=seed)
    write_folder(
        folder,
        loaded.sam3,
        build_processor(loaded.tokenizer, SIDE),
        state=rounded_state(loaded.sam3, "float32"),
        dtype="float32",
    )
    return folder


@dataclass
class Twin:
    """A data set in `root/set`, and the same under `s3://BUCKET/set`."""

    root: Path
    server: S3Server
    bucket: str
    count: int = 12
    below: str = ""
    endpoint: str | None = None
    valid: bool = False
    profile: tuple[str, ...] = ()
    document: Document = field(init=False)

    def __post_init__(self) -> None:
        """Write and upload."""
        self.document = make_document(self.count)
        write_split(self.folder / "train", self.document, below=self.below)
        if self.valid:
            write_split(self.folder / "valid", make_document(4))
        self.upload()

    @property
    def folder(self) -> Path:
        """The copy in a folder."""
        return self.root / "set"

    @property
    def uri(self) -> str:
        """The copy in the bucket."""
        return f"s3://{self.bucket}/set"

    def upload(self) -> None:
        """Bring the bucket up to date; nothing is deleted there."""
        self.server.upload_folder(self.bucket, "set", self.folder)

    def environ(self, **variables: str) -> dict[str, str]:
        """Return what a process needs to reach the bucket."""
        profiles = self.server.profiles_file(self.root / "storage.yaml", endpoint=self.endpoint)
        profiles.write_text("\n".join([profiles.read_text(), *(f"    {line}" for line in self.profile)]))
        return {**self.server.environment(), ENV_STORAGE_PROFILES: str(profiles), **variables}

    def config(self, uri: str | None = None, **sections: Any) -> TrainingConfig:
        """Return settings for the bucket, or for another address; train is its own validation set unless told."""
        uri = uri or self.uri
        data = {"uri": uri, "valid": {"annotations": f"{uri}/train/_annotations.coco.json"}}
        document = {
            **sections,
            "data": data | sections.get("data", {}),
            "scratch": {"resolution": 56, "train_batch_size": 4} | sections.get("scratch", {}),
            "runtime": {"outage_s": 20.0} | sections.get("runtime", {}),
        }
        return TrainingConfig.model_validate(document)

    def access(self, config: TrainingConfig | None = None, *, cache: Path | None = None) -> DataAccess:
        """Return a process's way to the data."""
        variables = {} if cache is None else {ENV_CACHE_DIR: str(cache)}
        return DataAccess(config or self.config(), self.environ(**variables))

    def open(self, config: TrainingConfig | None = None, *, cache: Path | None = None) -> CocoDataset:
        """Open train in the bucket."""
        config = config or self.config()
        return open_dataset(config, "train", access=self.access(config, cache=cache))


def steps_of(
    dataset: CocoDataset, config: TrainingConfig, *, steps: int | None = None, **loader: Any
) -> list[StepBatches]:
    """Return the first steps of a loader, an epoch by default."""
    wanted = steps or -(-len(dataset) // config.scratch.train_batch_size)
    with TrainLoader(dataset, config, micro_batch=2, steps=wanted, **loader) as batches:
        return list(batches)


def assert_equal(left: list[StepBatches], right: list[StepBatches]) -> None:
    """Hold two runs of steps against each other, bit for bit."""
    assert [step.image_ids for step in left] == [step.image_ids for step in right]
    for one, other in zip(left, right, strict=True):
        assert one.quarantined == other.quarantined
        for a, b in zip(one.micro_batches, other.micro_batches, strict=True):
            assert (a.phrases, a.image_ids, a.category_ids) == (b.phrases, b.image_ids, b.category_ids)
            assert torch.equal(a.pixels_I3SS, b.pixels_I3SS)
            assert torch.equal(a.img_idx_B, b.img_idx_B)
            assert torch.equal(a.targets.boxes_N4, b.targets.boxes_N4)
            if a.targets.masks_NSS is not None and b.targets.masks_NSS is not None:
                assert torch.equal(a.targets.masks_NSS, b.targets.masks_NSS)


def figures_of(access: DataAccess) -> dict[str, Any]:
    """Return what reading has cost since the last call."""
    return merged([access.figures.take()])
