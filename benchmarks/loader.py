"""Images per second and core of the training loader, beside Pillow on the same files in the same run.

    python benchmarks/loader.py [--images 120] [--rounds 3]

Writes 1920x1080 JPEGs of photographic detail into a temporary folder, pins the process to one core, and goes through
them at 1008 px with the real `TrainLoader`: read, decode, resize, pad, boxes, collate. Pillow's round decodes and
resizes only, which favours it. Seconds are CPU seconds of the whole process, so that other work on the machine counts
little, and rounds alternate, so that what it counts slows both. The last line is JSON.
"""

import argparse
import io
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.pipeline import TrainLoader

WIDTH, HEIGHT, SIDE = 1920, 1080, 1008
TARGET = 100.0
BOXES = 20


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = write_dataset(Path(folder) / "train", arguments.images)
        config = bench_config(folder)
        dataset = open_dataset(config, "train")
        rounds = [(loader_round(dataset, config), pillow_round(dataset)) for _ in range(arguments.rounds)]
    loader, pillow = median(pair[0] for pair in rounds), median(pair[1] for pair in rounds)
    for ours, theirs in rounds:
        print(f"loader {ours:6.1f} images/s/core   Pillow {theirs:6.1f}   ratio {ours / theirs:.2f}")
    print(
        json.dumps(
            {
                "images_per_s_core": round(loader, 1),
                "pillow_images_per_s_core": round(pillow, 1),
                "ratio": round(median(ours / theirs for ours, theirs in rounds), 2),
                "target": TARGET,
                "reached": loader >= TARGET,
                "jpeg_kb": round(mean_bytes / 1024),
            }
        )
    )


def write_dataset(folder: Path, images: int, *, distinct: int | None = None) -> float:
    """Write `images` JPEGs, of which `distinct` are different, and their annotations; return the mean size in bytes."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pictures = [jpeg(generator) for _ in range(min(images, distinct or images))]
    sizes = []
    for number in range(images):
        content = pictures[number % len(pictures)]
        (folder / f"{number}.jpg").write_bytes(content)
        sizes.append(len(content))
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(images)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n * BOXES + k, "image_id": n, "category_id": 1, "bbox": [10 + 80 * k, 20 + 40 * k, 60, 50]}
            for n in range(images)
            for k in range(BOXES)
        ],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(document))
    return float(np.mean(sizes))


def jpeg(generator: np.random.Generator) -> bytes:
    """Return a JPEG whose spectrum falls like a photograph's: noise at several scales, the coarse ones stronger."""
    picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.float32)
    for scale in (120, 40, 12, 4, 1):
        noise = generator.normal(0, 4 + scale**0.75, (HEIGHT // scale + 1, WIDTH // scale + 1, 3))
        layer = Image.fromarray(np.clip(noise + 128, 0, 255).astype(np.uint8)).resize((WIDTH, HEIGHT))
        picture += np.asarray(layer, dtype=np.float32) - 128
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture + 128, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def bench_config(folder: str) -> TrainingConfig:
    """Return the default training transforms at full resolution, every image in train."""
    annotations = f"{folder}/train/_annotations.coco.json"
    return TrainingConfig.model_validate(
        {
            "data": {"uri": folder, "valid": {"annotations": annotations}},
            "scratch": {"train_batch_size": 4, "resolution": SIDE},
            "augment": {"min_scale": 1.0},
        }
    )


def loader_round(dataset: CocoDataset, config: TrainingConfig) -> float:
    """Return images per CPU second of one pass, all threads counted."""
    steps = len(dataset) // config.scratch.train_batch_size
    with TrainLoader(dataset, config, micro_batch=4, steps=steps, threads=1) as loader:
        started = time.process_time()
        images = sum(len(step.image_ids) for step in loader)
    return images / (time.process_time() - started)


def pillow_round(dataset: CocoDataset) -> float:
    """Return images per CPU second of Pillow's decode and resize alone."""
    started = time.process_time()
    for image_id in dataset.image_ids:
        with Image.open(io.BytesIO(dataset.read_image(image_id))) as image:
            np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return len(dataset) / (time.process_time() - started)


if __name__ == "__main__":
    main()
