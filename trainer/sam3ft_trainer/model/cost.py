"""What a training step costs: FLOPs by part and memory by part, found without weights and without the device.

A step is traced on shapes (see `tracing`), so that the plan follows the code: frozen parts, checkpointed parts, task,
one-to-many queries, precision and cached phrases all change it by themselves.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Sam3Config

from sam3ft_api.training import Part, TrainingConfig
from sam3ft_trainer.model.attention import attention_kernel
from sam3ft_trainer.model.build import allocate_meta
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.text import NUM_TOKENS, TEXT_PREFIXES
from sam3ft_trainer.model.tracing import OTHER, ShapeAutocast, ShapeKernel, Trace, TracingCheckpointing
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions

ADAM_BYTES = 8
"""Two float32 moments per trained parameter."""
O2M_MATCHES = 4
"""Most one-to-many matches of an object (`loss.o2m_topk`)."""
LADDER: tuple[tuple[Part, ...], ...] = (
    (),
    ("encoder", "decoder"),
    ("text", "geometry", "encoder", "decoder", "mask"),
    ("vision", "encoder", "decoder"),
    ("vision", "text", "neck", "geometry", "encoder", "decoder", "mask"),
)
"""What "auto" tries in turn: from no recomputation to all. The DETR parts come first: per pair they hold most and cost
2 % of the FLOPs with one phrase; the ViT costs 31 %."""
LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Workload:
    """One micro-batch, by its sizes.

    Attributes:
        images: images of a forward pass.
        phrases: unique phrases.
        pairs: (image, phrase) pairs.
        objects: annotated objects of all pairs; they only matter for masks.
    """

    images: int = 1
    phrases: int = 1
    pairs: int = 1
    objects: int = 20

    @classmethod
    def of(cls, images: int, phrases_per_image: int, *, objects_per_pair: int = 20) -> "Workload":
        """Return a micro-batch whose images are all asked for the same phrases."""
        pairs = images * phrases_per_image
        return cls(images, phrases_per_image, pairs, pairs * objects_per_pair)


@dataclass(frozen=True, slots=True)
class StepFlops:
    """Floating-point operations of forward and backward over one micro-batch; a multiply-add counts as two.

    Attributes:
        forward: by part.
        backward: gradients of activations and weights.
        recomputed: what activation checkpointing computes a second time; no part of the work that a share of the
            device's peak is reckoned by.
    """

    forward: dict[str, int]
    backward: int
    recomputed: int

    @property
    def total(self) -> int:
        """Forward and backward, without recomputation."""
        return sum(self.forward.values()) + self.backward


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that a training process needs on its device.

    Attributes:
        weights: parameters held (a cached text encoder is not).
        gradients: of trained parameters; counted as always there, as with accumulation and in groups of processes.
        optimizer: AdamW's moments.
        ema: the averaged copy of the trained weights, when it is kept.
        activations: held for backward when the forward ends, by part.
        losses: inputs and targets, and what the losses hold at most while they run.
        peak: most bytes alive at once beyond the state, anywhere in the step.
        overhead: allowance for what no tensor shows: kernels' workspaces, fragmentation, the device's context.
        checkpointed: parts whose activations are recomputed.
        budget: bytes of the device that may be used; None when it was not given.
        flops: of the same step.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: dict[str, int]
    losses: int
    peak: int
    overhead: int
    checkpointed: tuple[Part, ...]
    budget: int | None
    flops: StepFlops

    @property
    def state(self) -> int:
        """Weights, gradients, moments and average: what stays between steps."""
        return self.weights + self.gradients + self.optimizer + self.ema

    @property
    def commit(self) -> int:
        """What a checkpoint holds: the state without gradients."""
        return self.weights + self.optimizer + self.ema

    @property
    def peak_beyond_state(self) -> int:
        """What a step needs on top of the state."""
        return self.peak + self.overhead

    @property
    def total(self) -> int:
        """What the device must have."""
        return self.state + self.peak_beyond_state

    @property
    def fits(self) -> bool:
        """Whether the total is within the budget; True without one."""
        return self.budget is None or self.total <= self.budget


def overhead_bytes(device_type: str, peak: int) -> int:
    """Return the allowance beyond traced tensors for a traced `peak`.

    CPU: pages that the allocator keeps although large blocks are mapped (`map_large_blocks`), and the kernels'
    workspaces. CUDA: context and libraries, and fragmentation of the caching allocator.
    """
    return 600 * 2**20 + peak // 20 if device_type == "cuda" else 96 * 2**20 + peak // 20


def trace_step(
    config: TrainingConfig,
    sam3_config: Sam3Config,
    workload: Workload,
    *,
    device_type: str,
    checkpointed: tuple[Part, ...] = (),
    budget: int | None = None,
) -> MemoryPlan:
    """Trace one forward, loss and backward, and return what it takes with exactly these parts checkpointed.

    Args:
        config: task, freezing, dropout, precision, mask settings.
        sam3_config: architecture, its image size set.
        workload: sizes of the micro-batch.
        device_type: "cpu" or "cuda": whose kernels are assumed.
        checkpointed: parts to recompute.
        budget: bytes available, copied into the plan.
    """
    trace = Trace()
    model = _shapes(config, sam3_config, trace, checkpointed)
    state = _state_bytes(model, config)
    masks = config.task == "segmentation"
    with attention_kernel(ShapeKernel(trace, device_type)), trace:
        trace.ignore(chain(model.parameters(), model.buffers()))
        trace.ignore(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        inputs = _inputs(workload, sam3_config, config)
        targets = torch.empty(
            workload.objects if masks else 0, *inputs.pixels.shape[-2:], dtype=torch.uint8, device="meta"
        )
        held_inputs = trace.live
        with _autocast(config.scratch.precision):
            predictions = inputs.run(model, o2m=config.model.o2m, masks=masks)
        held = trace.held_by_part()
        trace.in_backward = True
        before_loss = trace.live
        trace.restart_peak()
        loss = _loss_shape(predictions.float(), targets, chunk=config.loss.mask_chunk)
        losses = trace.recent_peak - before_loss + held_inputs
        del predictions
        torch.autograd.backward(loss)
    return MemoryPlan(
        **state,
        activations={part: nbytes for part, nbytes in held.items() if part != OTHER},
        losses=losses,
        peak=trace.peak,
        overhead=overhead_bytes(device_type, trace.peak),
        checkpointed=checkpointed,
        budget=budget,
        flops=StepFlops(dict(trace.forward_flops), trace.backward_flops, trace.recomputed_flops),
    )


def _shapes(
    config: TrainingConfig, sam3_config: Sam3Config, trace: Trace, checkpointed: tuple[Part, ...]
) -> TrainingModel:
    """The model to be trained, on the meta device, with its gradients in place."""
    sam3 = allocate_meta(sam3_config)
    freeze_parts(sam3, config.model.freeze, task=config.task, geometry_cls=config.model.geometry_cls)
    model = TrainingModel(sam3, config.model).train()
    model.checkpointing = TracingCheckpointing(
        trace, checkpointed, partial(_autocast, config.scratch.precision), random=model.regularization.active
    )
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    return model


def _state_bytes(model: TrainingModel, config: TrainingConfig) -> dict[str, int]:
    cached = TEXT_PREFIXES if _caches_text(config) else ()
    held = sum(p.nbytes for name, p in model.sam3.named_parameters() if not (cached and name.startswith(cached)))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ema = 4 * trained if config.optim.ema_decay is not None else 0
    return {"weights": held, "gradients": 4 * trained, "optimizer": ADAM_BYTES * trained, "ema": ema}


def _caches_text(config: TrainingConfig) -> bool:
    """A frozen text encoder's features are cached and its weights dropped (see `PhraseCache`)."""
    return "text" in config.model.freeze


def _autocast(precision: str) -> AbstractContextManager[object]:
    """What the loop puts around the forward."""
    return ShapeAutocast(LOW_PRECISION[precision]) if precision in LOW_PRECISION else nullcontext()


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Inputs of the forward, as shapes."""

    pixels: Tensor
    ids: Tensor
    attention_mask: Tensor
    img_idx: Tensor
    txt_idx: Tensor
    text_features: Tensor | None

    def run(self, model: TrainingModel, *, o2m: bool, masks: bool) -> Predictions:
        predictions: Predictions = model(
            self.pixels,
            self.ids,
            self.attention_mask,
            self.img_idx,
            self.txt_idx,
            o2m=o2m,
            masks=masks,
            text_features_TKD=self.text_features,
        )
        return predictions


def _inputs(workload: Workload, sam3_config: Sam3Config, config: TrainingConfig) -> _Inputs:
    side = sam3_config.image_size
    ids = torch.empty(workload.phrases, NUM_TOKENS, dtype=torch.int64, device="meta")
    pairs = torch.empty(workload.pairs, dtype=torch.int64, device="meta")
    width = sam3_config.detr_encoder_config.hidden_size
    features = torch.empty(workload.phrases, NUM_TOKENS, width, device="meta") if _caches_text(config) else None
    pixels = torch.empty(workload.images, 3, side, side, device="meta")
    return _Inputs(pixels, ids, torch.empty_like(ids), pairs, torch.empty_like(pairs), features)


def _loss_shape(predictions: Predictions, targets_NSS: Tensor, *, chunk: int) -> Tensor:
    """A loss that reads what the real one reads, so that backward starts with the same gradients.

    Masks: those of one query per object, and of up to four in the one-to-many branch, enlarged to the input's side and
    scored a chunk at a time, recomputed in backward.
    """
    present = [getattr(predictions, field.name) for field in fields(predictions)]
    total = torch.stack([value[..., :1].sum() for value in present if value is not None]).sum()
    for masks_BQhw, copies in ((predictions.masks_BQhw, 1), (predictions.masks_o2m_BQhw, O2M_MATCHES)):
        if masks_BQhw is None:
            continue
        index = torch.empty(copies * len(targets_NSS), dtype=torch.int64, device="meta")
        for piece_chw in torch.split(masks_BQhw.flatten(0, 1).index_select(0, index), chunk):
            total = total + checkpoint(_mask_terms, piece_chw, targets_NSS, use_reentrant=False)
    return total


def _mask_terms(logits_chw: Tensor, targets_NSS: Tensor) -> Tensor:
    """Focal loss and dice of a few masks at full resolution, written with as many maps as the real terms keep."""
    logits = F.interpolate(logits_chw[:, None], size=targets_NSS.shape[-2:], mode="bilinear", align_corners=False)
    index = torch.empty(len(logits_chw), dtype=torch.int64, device="meta")
    target = targets_NSS.index_select(0, index)[:, None].to(logits.dtype)
    prob = logits.sigmoid()
    miss = prob + target - 2 * prob * target
    balance = 0.25 * target + 0.75 * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (balance * entropy * miss.square()).mean() + (logits.sigmoid() * target).sum()


def plan_memory(
    config: TrainingConfig,
    sam3_config: Sam3Config,
    workload: Workload,
    *,
    device_type: str,
    budget: int | None = None,
) -> MemoryPlan:
    """Return the plan for `runtime.activation_checkpointing`; "auto" checkpoints as little as the budget allows.

    Without a budget "auto" checkpoints nothing. When nothing fits, the plan of the last rung of `LADDER` is returned,
    and its `fits` is False.

    Args:
        config: the run's settings.
        sam3_config: architecture, its image size set.
        workload: sizes of a micro-batch.
        device_type: "cpu" or "cuda".
        budget: bytes of the device that the process may use.
    """
    return least_recomputed(
        trace_step(config, sam3_config, workload, device_type=device_type, checkpointed=parts, budget=budget)
        for parts in rungs_of(config)
    )


def rungs_of(config: TrainingConfig) -> tuple[tuple[Part, ...], ...]:
    """Return the sets of parts that `runtime.activation_checkpointing` lets be recomputed, cheapest first."""
    chosen = config.runtime.activation_checkpointing
    if chosen == "auto":
        return LADDER
    return ((),) if chosen == "none" else (chosen,)


def least_recomputed(plans: Iterable[MemoryPlan]) -> MemoryPlan:
    """Return the first plan that fits, else the last one; what comes after it is not asked for.

    Args:
        plans: at least one, cheapest first.
    """
    for plan in plans:
        if plan.fits:
            break
    return plan
