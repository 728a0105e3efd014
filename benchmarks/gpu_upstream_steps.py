"""Steps of upstream's trainer in one case of `benchmarks.gpu_upstream`: its batches, losses, optimizer and loop."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.gpu import GIB
from benchmarks.gpu_cases import Case, Settings
from benchmarks.gpu_steps import Clock, Mark, synthetic_batch
from sam3.train import matcher, trainer  # type: ignore[import-not-found]
from sam3.train.data import collator, sam3_image_dataset  # type: ignore[import-not-found]
from sam3.train.loss import loss_fns, sam3_loss  # type: ignore[import-not-found]
from sam3.train.optim import optimizer, schedulers  # type: ignore[import-not-found]
from torch import Tensor, nn

from sam3ft_trainer.tensors import Batch


def measure(model: nn.Module, settings: Settings, case: Case, *, ddp: bool, triton: bool) -> dict[str, Any]:
    """Do warm-up and timed steps as one epoch of upstream's trainer, and return the figures of the timed ones.

    Args:
        model: upstream's model on the device, with the mask head if the case has masks; its weights change.
        settings: what all cases share.
        case: sizes of the micro-batch.
        ddp: wrap the model as upstream does.
        triton: let upstream take its kernel for the focal loss, which there is for CUDA devices alone.

    Raises:
        FloatingPointError: a loss is not finite.
        RuntimeError: out of memory, among others.
    """
    cuda = settings.device.type == "cuda"
    steps = ReadySteps(settings, case)
    PeakMeter.allocated = PeakMeter.reserved = 0
    with ExitStack() as stack:
        # Upstream forgets its peaks after each step, and rounds them.
        stack.enter_context(patch.object(trainer, "MemMeter", PeakMeter))
        if not triton:
            plain = partial(loss_fns.sigmoid_focal_loss, triton=False)
            stack.enter_context(patch.object(loss_fns, "sigmoid_focal_loss", plain))
        if cuda:
            torch.cuda.reset_peak_memory_stats(settings.device)
        else:
            # Pinned memory needs a driver.
            stack.enter_context(patch.object(Tensor, "pin_memory", lambda tensor: tensor))
        peer = Peer(model, settings, case, ddp=ddp)
        peer.train_epoch(steps)
    seconds = steps.seconds()
    return {
        "images_per_s": settings.steps * case.images / seconds,
        "step_s": seconds / settings.steps,
        "allocated_gib": PeakMeter.allocated / GIB if cuda else None,
        "reserved_gib": PeakMeter.reserved / GIB if cuda else None,
        "losses": [float(loss) for loss in peer.losses],
        "scale": peer.scaler.get_scale(),
    }


class ReadySteps:
    """Two ready batches in turn, in the loader's place, and the time between the steps that they are asked for."""

    def __init__(self, settings: Settings, case: Case) -> None:
        """Collate the batches."""
        self._batches = [upstream_batch(synthetic_batch(case, settings, seed=seed), case) for seed in (0, 1)]
        self._clock = Clock(settings.device)
        self._warmup, self._count = settings.warmup, settings.warmup + settings.steps
        self._marks: list[Mark] = []

    def __len__(self) -> int:
        """Return the number of steps, as a loader does."""
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield a batch for each step."""
        for step, batch in enumerate(itertools.islice(itertools.cycle(self._batches), self._count)):
            if step == self._warmup:
                self._marks.append(self._clock.mark())
            # Upstream takes the batch out of its dictionary.
            yield dict(batch)
        self._marks.append(self._clock.mark())

    def seconds(self) -> float:
        """Return the time from the end of the last warm-up step to the end of the last step."""
        self._clock.finish()
        start, end = self._marks
        return self._clock.seconds(start, end)


def upstream_batch(batch: Batch, case: Case) -> dict[str, Any]:
    """Return our synthetic batch as upstream's collator hands it to its trainer."""
    targets, parts = batch.targets, sam3_image_dataset
    counts = targets.num_boxes_B.tolist()
    boxes = torch.split(targets.boxes_N4, counts)
    masks: Sequence[Sequence[Tensor | None]] = [[None] * len(pair) for pair in boxes]
    if targets.masks_NSS is not None:
        masks = [pair.unbind() for pair in torch.split(targets.masks_NSS, counts)]
    datapoints = []
    for image, pixels_3SS in enumerate(batch.pixels_I3SS):
        objects: list[Any] = []
        queries, size = [], tuple(pixels_3SS.shape[1:])
        for pair in (batch.img_idx_B == image).nonzero().flatten().tolist():
            first = len(objects)
            for box, mask in zip(boxes[pair], masks[pair], strict=True):
                objects.append(parts.Object(bbox=box, area=float(box[2] * box[3]), segment=mask))
            about = parts.InferenceMetadata(-1, -1, int(batch.txt_idx_B[pair]), size, first, -1)
            queries.append(
                parts.FindQueryLoaded(
                    query_text=batch.phrases[int(batch.txt_idx_B[pair])],
                    image_id=0,
                    object_ids_output=list(range(first, len(objects))),
                    is_exhaustive=True,
                    inference_metadata=about,
                )
            )
        normalised = pixels_3SS.float() / 127.5 - 1
        datapoints.append(parts.Datapoint(queries, [parts.Image(normalised, objects, size)]))
    collated: dict[str, Any] = collator.collate_fn_api(
        datapoints, dict_key="all", with_seg_masks=case.task == "segmentation", repeats=1
    )
    return collated


class Peer(trainer.Trainer):  # type: ignore[misc]
    """Upstream's trainer for one case: its own steps, with a ready model and without folders, logs and checkpoints."""

    def __init__(self, model: nn.Module, settings: Settings, case: Case, *, ddp: bool) -> None:
        """Set up what upstream's constructor does, with the values of its configuration for fine-tuning."""
        self._setup_timers()
        self.device, self.local_rank, self.distributed_rank = settings.device, 0, 0
        self.logging_conf = trainer.LoggingConf(log_dir="", log_freq=10, tensorboard_writer=None)
        self.logger = trainer.Logger(self.logging_conf)
        self.optim_conf = trainer.OptimConf(**optimizer_options())
        self.max_epochs, self.val_epoch_freq, self.epoch, self.where = 20, 10, 0, 0.0
        self.steps = {trainer.Phase.TRAIN: 0, trainer.Phase.VAL: 0}
        self.meters: dict[str, Any] = {}
        self.loss = nn.ModuleDict({"all": build_loss(segmentation=case.task == "segmentation")})
        self.scaler = torch.amp.GradScaler(settings.device, enabled=True)  # type: ignore[arg-type]  # as upstream does
        self.gradient_clipper = optimizer.GradientClipper(max_norm=0.1, norm_type=2)
        self.gradient_logger = None
        self.gradient_accumulation_steps = 1
        self.time_elapsed_meter = trainer.DurationMeter("Time Elapsed", self.device, ":.2f")
        self.losses: list[Tensor] = []
        self.model = model
        self._construct_optimizers()
        if ddp:
            group = trainer.DistributedConf(find_unused_parameters=True, gradient_as_bucket_view=True)
            self._setup_ddp_distributed_training(group, settings.device.type)

    def _step(self, batch: dict[str, Any], model: nn.Module, phase: str) -> Any:
        """Keep the loss of each step, and leave all else to upstream."""
        done = super()._step(batch, model, phase)
        self.losses += [loss.detach() for loss in done[0].values()]
        return done


class PeakMeter(trainer.MemMeter):  # type: ignore[misc]
    """Upstream's meter of memory that also keeps the highest peaks of all steps, in bytes."""

    allocated = reserved = 0

    def update(self, n: int = 1, reset_peak_usage: bool = True) -> None:  # noqa: FBT001, FBT002 - upstream's signature
        """Take the peaks before upstream resets them; on the CPU do nothing."""
        if self.device.type == "cuda":
            PeakMeter.allocated = max(PeakMeter.allocated, torch.cuda.max_memory_allocated())
            PeakMeter.reserved = max(PeakMeter.reserved, torch.cuda.max_memory_reserved())
            super().update(n, reset_peak_usage)


def build_loss(*, segmentation: bool) -> nn.Module:
    """Return upstream's loss with the weights of its configuration for fine-tuning."""
    find = [
        loss_fns.Boxes(weight_dict={"loss_bbox": 5.0, "loss_giou": 2.0}),
        loss_fns.IABCEMdetr(
            weak_loss=False,
            weight_dict={"loss_ce": 20.0, "presence_loss": 20.0},
            pos_weight=10.0,
            alpha=0.25,
            gamma=2,
            use_presence=True,
            pos_focal=False,
            pad_n_queries=200,
            pad_scale_pos=1.0,
        ),
    ]
    semantic = None
    if segmentation:
        weights = {"loss_mask": 200.0, "loss_dice": 10.0}
        find.append(loss_fns.Masks(focal_alpha=0.25, focal_gamma=2.0, weight_dict=weights, compute_aux=False))
        semantic = loss_fns.SemanticSegCriterion(
            presence_head=True,
            presence_loss=False,
            focal=True,
            focal_alpha=0.6,
            focal_gamma=2.0,
            downsample=False,
            weight_dict={"loss_semantic_seg": 20.0, "loss_semantic_presence": 1.0, "loss_semantic_dice": 30.0},
        )
    wrapper: nn.Module = sam3_loss.Sam3LossWrapper(
        loss_fns_find=find,
        matcher=matcher.BinaryHungarianMatcherV2(
            focal=True, cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, alpha=0.25, gamma=2, stable=False
        ),
        o2m_matcher=matcher.BinaryOneToManyMatcher(alpha=0.3, threshold=0.4, topk=4),
        o2m_weight=2.0,
        use_o2m_matcher_on_o2m_aux=False,
        loss_fn_semantic_seg=semantic,
        scale_by_find_batch_size=True,
    )
    return wrapper


def optimizer_options() -> dict[str, Any]:
    """Return upstream's settings for the optimizer, as its trainer reads them."""
    rates = {None: 8e-5, "backbone.vision_backbone.*": 2.5e-5, "backbone.language_backbone.*": 5e-6}
    lr = []
    for names, rate in rates.items():
        schedule = schedulers.InverseSquareRootParamScheduler(rate, warmup_steps=20, cooldown_steps=20, timescale=20)
        lr.append({"scheduler": schedule} | ({"param_names": [names]} if names else {}))
    decay = [
        {"scheduler": Constant(0.1)},
        {"scheduler": Constant(0.0), "param_names": ["*bias*"], "module_cls_names": ["torch.nn.LayerNorm"]},
    ]
    layers = {
        "_target_": "sam3.train.optim.optimizer.layer_decay_param_modifier",
        "_partial_": True,
        "layer_decay_value": 0.9,
        "apply_to": "backbone.vision_backbone.trunk",
        "overrides": [{"pattern": "*pos_embed*", "value": 1.0}],
    }
    return {
        "optimizer": {"_target_": "torch.optim.AdamW"},
        "options": {"lr": lr, "weight_decay": decay},
        "param_group_modifiers": [layers],
        "amp": {"enabled": True, "amp_dtype": "bfloat16"},
    }


class Constant:
    """A schedule that stays where it is; upstream takes fvcore's, which would be one more package."""

    def __init__(self, value: float) -> None:
        """Stay at `value`."""
        self._value = value

    def __call__(self, _where: float) -> float:
        """Return the value, wherever in the run."""
        return self._value
