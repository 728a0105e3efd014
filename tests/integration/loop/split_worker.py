"""One rank of a few optimizer steps on fixed data: `split_worker.py OUT STEPS GLOBAL_BATCH MICRO_BATCH DTYPE TASK`.

Run by test_split_invariance.py in 1 to 3 processes, with torchrun's variables. Writes the parameters of rank 0 and the
image ids of every rank's every step.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.order import windows
from sam3ft_trainer.loss.total import local_counts, sum_counts
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.load import load_model
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run.group import join_group
from sam3ft_trainer.run.optim import build_optimizer
from sam3ft_trainer.run.prefetch import DeviceFeed
from sam3ft_trainer.run.spans import Spans
from sam3ft_trainer.run.step import Stepper
from sam3ft_trainer.run.text import LiveText
from sam3ft_trainer.tensors import Batch, GlobalCounts, Targets

PHRASES = ("cell", "crack", "a third thing")
SIDE = 112
NUM_IMAGES = 7


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
    targets = Targets(
        boxes_N4=torch.cat(boxes) if boxes else torch.zeros(0, 4),
        num_boxes_B=torch.tensor(num_boxes, dtype=torch.int64),
        masks_NSS=(torch.cat(mask_list) if mask_list else torch.zeros(0, SIDE, SIDE, dtype=torch.uint8)) if masks else None,
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


def main() -> None:
    out, steps, global_batch, micro_batch, dtype_name, task = sys.argv[1:]
    masks = task == "segmentation"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dtype = getattr(torch, dtype_name)
    config = TrainingConfig.model_validate(
        {
            "scratch": {"precision": "fp32", "train_batch_size": int(global_batch), "resolution": SIDE, "enable_segmentation": masks},
            "model": {"uri": "preset:tiny-micro", "dropout": 0, "attention_dropout": 0, "drop_path": 0},
            "optim": {"lr": 1e-3, "warmup": 1, "cooldown": 1},
        }
    )
    device = torch.device("cpu")
    group = join_group(device)
    loaded = load_model(config.model.uri, config.model, resolution=SIDE, device=device, seed=0)
    freeze_parts(loaded.sam3, (), task=config.task, geometry_cls=True)
    model = TrainingModel(loaded.sam3.to(dtype), config.model).train()
    optimizer = build_optimizer(model.sam3, config.optim, fused=False)
    stepper = Stepper(model, optimizer, config, device=device, world_size=group.world_size, spans=Spans())
    feed = DeviceFeed(device, LiveText(model, loaded.tokenizer, device).inputs, dtype=dtype)
    seen: list[list[int]] = []
    losses = []
    for step, window in zip(range(int(steps)), windows(range(1, NUM_IMAGES + 1), seed=5, global_batch=int(global_batch))):
        pieces = window.micro_batches(group.rank, world_size=group.world_size, size=int(micro_batch))
        batches = [make_batch(piece or (0,)[:0], masks=masks) for piece in pieces]
        local = sum_counts(local_counts(batch.targets, segmentation=masks) for batch in batches)
        counts = GlobalCounts(*group.sum([local.num_boxes, local.num_pairs, local.num_mask_pairs]))
        result = stepper.step(feed.put(batches), counts, step=step, total_steps=int(steps))
        losses.append(result.read().loss)
        seen.append([image_id for piece in pieces for image_id in piece])
    gathered = group.gather(seen)
    if gathered is not None:
        tensors = {name: tensor.detach().clone() for name, tensor in model.sam3.named_parameters()}
        initial = load_model(config.model.uri, config.model, resolution=SIDE, device=device, seed=0).sam3
        tensors |= {f"initial.{name}": tensor.detach().to(dtype) for name, tensor in initial.named_parameters()}
        save_file(tensors, out)
        ids = [sorted(i for rank in gathered for i in rank[step]) for step in range(int(steps))]
        Path(out).with_suffix(".json").write_text(json.dumps({"ids": ids, "losses": losses}))
    group.close()


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_JIT", "0")
    main()
