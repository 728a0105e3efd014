"""One rank of a few optimizer steps on fixed data: `split_worker.py FOLDER CASES`.

Run by test_split_invariance.py in 1 to 3 processes, with torchrun's variables; CASES is a JSON list of
[task, dtype, images per micro-batch]. Writes, for each case, the parameters and the image ids of every step.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.order import windows
from sam3ft_trainer.loss.total import local_counts, sum_counts
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.load import load_model
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run.group import Group, join_group
from sam3ft_trainer.run.optim import build_optimizer
from sam3ft_trainer.run.prefetch import DeviceFeed
from sam3ft_trainer.run.spans import Spans
from sam3ft_trainer.run.step import Stepper
from sam3ft_trainer.run.text import LiveText
from sam3ft_trainer.tensors import Batch, GlobalCounts, Targets

PHRASES = ("cell", "crack", "a third thing")
SIDE = 112
NUM_IMAGES = 7
STEPS = 5
GLOBAL_BATCH = 4
"""Seven images in windows of four: every second step is short, and three ranks never share it evenly."""


class Case(NamedTuple):
    task: str
    dtype: str
    micro_batch: int


def make_batch(image_ids: tuple[int, ...], *, masks: bool) -> Batch:
    """The same image and objects for the same id, whoever asks; image 3 has no pair at all."""
    pixels, img_idx, txt_idx, boxes, num_boxes, mask_list = [], [], [], [], [], []
    for place, image_id in enumerate(image_ids):
        generator = torch.Generator().manual_seed(image_id)
        pixels.append(torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8))
        if image_id == 3:
            continue
        for phrase in range(len(PHRASES)):
            count = (image_id + phrase) % 3
            img_idx.append(place)
            txt_idx.append(phrase)
            num_boxes.append(count)
            found = torch.rand((count, 4), generator=generator) * 0.4 + 0.2
            boxes.append(found)
            mask_list.append((torch.rand((count, SIDE, SIDE), generator=generator) > 0.8).to(torch.uint8))
    total = sum(num_boxes)
    empty = torch.zeros(0, SIDE, SIDE, dtype=torch.uint8)
    targets = Targets(
        boxes_N4=torch.cat(boxes) if boxes else torch.zeros(0, 4),
        num_boxes_B=torch.tensor(num_boxes, dtype=torch.int64),
        masks_NSS=torch.cat([empty, *mask_list]) if masks else None,
        mask_valid_N=torch.ones(total, dtype=torch.bool) if masks else None,
    )
    return Batch(
        pixels_I3SS=torch.stack(pixels) if pixels else torch.zeros(0, 3, SIDE, SIDE, dtype=torch.uint8),
        phrases=PHRASES if num_boxes else (),
        img_idx_B=torch.tensor(img_idx, dtype=torch.int64),
        txt_idx_B=torch.tensor(txt_idx, dtype=torch.int64),
        targets=targets,
        image_ids=image_ids,
        category_ids=tuple(txt_idx),
    )


def run_case(out: Path, case: Case, group: Group) -> None:
    masks = case.task == "segmentation"
    dtype = getattr(torch, case.dtype)
    config = TrainingConfig.model_validate(
        {
            "scratch": {
                "precision": "fp32",
                "train_batch_size": GLOBAL_BATCH,
                "resolution": SIDE,
                "enable_segmentation": masks,
            },
            "model": {"uri": "preset:tiny-micro", "dropout": 0, "attention_dropout": 0, "drop_path": 0},
            "optim": {"lr": 1e-3, "warmup": 1, "cooldown": 1},
        }
    )
    device = torch.device("cpu")
    loaded = load_model(config.model.uri, config.model, resolution=SIDE, device=device, seed=0)
    initial = {f"initial.{name}": tensor.detach().clone() for name, tensor in loaded.sam3.named_parameters()}
    freeze_parts(loaded.sam3, (), task=config.task, geometry_cls=True)
    model = TrainingModel(loaded.sam3.to(dtype), config.model).train()
    optimizer = build_optimizer(model.sam3, config.optim, fused=False)
    stepper = Stepper(model, optimizer, config, device=device, world_size=group.world_size, spans=Spans())
    feed = DeviceFeed(device, LiveText(model, loaded.tokenizer, device).inputs, dtype=dtype)
    seen: list[list[int]] = []
    losses = []
    steps = windows(range(1, NUM_IMAGES + 1), seed=5, global_batch=GLOBAL_BATCH)
    for step, window in zip(range(STEPS), steps, strict=False):
        pieces = window.micro_batches(group.rank, world_size=group.world_size, size=case.micro_batch)
        batches = [make_batch(piece, masks=masks) for piece in pieces]
        local = sum_counts(local_counts(batch.targets, segmentation=masks) for batch in batches)
        counts = GlobalCounts(*group.sum([local.num_boxes, local.num_pairs, local.num_mask_pairs]))
        result = stepper.step(feed.put(batches), counts, step=step, total_steps=STEPS, num_images=len(window.image_ids))
        losses.append(result.read().loss)
        seen.append([image_id for piece in pieces for image_id in piece])
    gathered = group.gather(seen)
    if gathered is not None:
        tensors = {name: tensor.detach().clone() for name, tensor in model.sam3.named_parameters()}
        path = out / f"{case.task}-{case.dtype}-{group.world_size}-{case.micro_batch}.safetensors"
        save_file(tensors | initial, path)
        ids = [sorted(i for rank in gathered for i in rank[step]) for step in range(STEPS)]
        path.with_suffix(".json").write_text(json.dumps({"ids": ids, "losses": losses}))


def main() -> None:
    out, cases = Path(sys.argv[1]), [Case(*fields) for fields in json.loads(sys.argv[2])]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    group = join_group(torch.device("cpu"))
    for case in cases:
        run_case(out, case, group)
    group.close()


if __name__ == "__main__":
    main()
