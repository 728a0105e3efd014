"""One optimizer step as a function of its global batch: forward, backward, clip, update, or a skip by all ranks."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.loss.total import compute_loss
from sam3ft_trainer.loss.transfer import Download
from sam3ft_trainer.run.group import peers_at_work, sum_gradients
from sam3ft_trainer.run.machine import reseed
from sam3ft_trainer.run.prefetch import DeviceBatch
from sam3ft_trainer.run.schedule import learning_rate
from sam3ft_trainer.run.spans import Spans
from sam3ft_trainer.run.update import clip_and_check
from sam3ft_trainer.tensors import GlobalCounts

AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

INITIAL_LOSS_SCALE = 2.0**16
"""torch's own default; the search for a smaller one takes a few skipped steps."""


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """A step's numbers on the host.

    Attributes:
        loss: over the global batch.
        grad_norm: before clipping.
        applied: False when the update was skipped.
        is_scaler_search: the skip is the fp16 scaler looking for its scale, which is no fault of the data.
        terms: of this rank.
    """

    loss: float
    grad_norm: float
    applied: bool
    is_scaler_search: bool
    terms: dict[str, float]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step left behind, on its way to the host.

    The copy is queued when the result is made. Reading waits for this step alone, not for what was queued after it:
    read a step late, it waits for nothing, and the device always has work ahead.

    Attributes:
        step: number of the step, from 0.
        loss: float32 scalar, the step's loss over the global batch.
        terms: unweighted terms of this rank, by name; additive over ranks.
        grad_norm: float32 scalar, global L2 norm before clipping.
        applied: bool scalar, False when all ranks skipped the update.
        learning_rate: of the transformer group.
        num_images: images of all ranks.
        image_ids: images of this rank, for the bundle of a skipped step.
        phrases: phrases of this rank.
        has_scaler: an fp16 gradient scaler took part.
    """

    step: int
    loss: Tensor
    terms: dict[str, Tensor]
    grad_norm: Tensor
    applied: Tensor
    learning_rate: float
    num_images: int
    image_ids: tuple[int, ...]
    phrases: tuple[str, ...]
    has_scaler: bool = False
    _on_host: Download = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Queue the copy to the host, all numbers in one transfer."""
        object.__setattr__(self, "_on_host", Download([self.loss, self.grad_norm, self.applied, *self.terms.values()]))

    def read(self) -> StepNumbers:
        """Return the numbers; waits until the device has finished this step."""
        loss, grad_norm, applied, *terms = (float(value) for value in self._on_host.arrays())
        return StepNumbers(
            loss=loss,
            grad_norm=grad_norm,
            applied=bool(applied),
            is_scaler_search=self.has_scaler and not applied and math.isfinite(loss),
            terms=dict(zip(self.terms, terms, strict=True)),
        )


class Stepper:
    """Owns the update: the wrapped network, the optimizer and the gradient scaler."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        *,
        device: torch.device,
        world_size: int,
        spans: Spans,
        loss_scale: float | None = None,
    ) -> None:
        """Wrap `model` for the world at hand.

        Args:
            model: the `TrainingModel`; parameters that never get a gradient must not require one.
            optimizer: groups carry `name` and `peak_lr`.
            config: the run's settings.
            device: where the model lives.
            world_size: processes; 1 leaves the model as it is.
            spans: receives the seconds of forward, backward and optimizer.
            loss_scale: the fp16 scaler's scale in the commit that is resumed.
        """
        self.optimizer = optimizer
        self._config = config
        self._device = device
        self._world_size = world_size
        self._spans = spans
        self._network = model if world_size == 1 else _distribute(model, device)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        precision = config.scratch.precision
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=precision == "fp16", init_scale=loss_scale or INITIAL_LOSS_SCALE
        )
        self._autocast = torch.autocast(
            device.type, dtype=AUTOCAST_DTYPE[precision], enabled=precision != "fp32", cache_enabled=True
        )

    def step(
        self, batches: Sequence[DeviceBatch], counts: GlobalCounts, *, step: int, total_steps: int, num_images: int
    ) -> StepResult:
        """Do optimizer step `step` of `total_steps` on this rank's micro-batches.

        Args:
            batches: this rank's micro-batches on the device; every rank has the same number of them.
            counts: sums over the global batch, equal on all ranks.
            step: from 0.
            total_steps: last step of the schedule.
            num_images: images of the global batch, for the record.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self._device, dtype=torch.float64 if self._is_double() else torch.float32)
        terms: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            share, share_terms = self._accumulate(batch, counts, step=step, synchronise=is_last)
            loss = loss + share
            for name, value in share_terms.items():
                terms[name] = terms[name] + value if name in terms else value
        with self._spans.span("optimizer"):
            rate = self._set_rates(step, total_steps)
            grad_norm, applied, loss = self._update(loss)
        return StepResult(
            step=step,
            loss=loss,
            terms=terms,
            grad_norm=grad_norm,
            applied=applied,
            learning_rate=rate,
            num_images=num_images,
            image_ids=tuple(image_id for batch in batches for image_id in batch.image_ids),
            phrases=tuple(dict.fromkeys(phrase for batch in batches for phrase in batch.phrases)),
            has_scaler=self.scaler.is_enabled(),
        )

    def loss_scale(self) -> float | None:
        """Return the fp16 scaler's scale, which is part of the state; None without a scaler."""
        return float(self.scaler.get_scale()) if self.scaler.is_enabled() else None

    def _is_double(self) -> bool:
        return self._parameters[0].dtype == torch.float64

    def _accumulate(
        self, batch: DeviceBatch, counts: GlobalCounts, *, step: int, synchronise: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        reseed(self._config.scratch.seed_value, step, batch.image_ids[0] if batch.image_ids else -1)
        network = self._network
        quiet = isinstance(network, DistributedDataParallel) and not synchronise
        with network.no_sync() if quiet else contextlib.nullcontext():  # type: ignore[operator]
            with self._spans.span("forward"):
                with self._autocast:
                    predictions = network(
                        batch.pixels_I3SS,
                        **batch.text,
                        img_idx_B=batch.img_idx_B,
                        txt_idx_B=batch.txt_idx_B,
                        o2m=self._config.model.o2m,
                        masks=self._config.scratch.enable_segmentation,
                    )
                output = compute_loss(predictions, batch.targets, counts, self._config.loss)
            with self._spans.span("backward"), peers_at_work("the sum of gradients"):
                self.scaler.scale(output.total).backward()  # type: ignore[no-untyped-call]
        return output.total.detach(), {name: value.detach() for name, value in output.terms.items()}

    def _set_rates(self, step: int, total_steps: int) -> float:
        optim = self._config.optim
        transformer_rate = 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                group["peak_lr"],
                step,
                total_steps,
                warmup=optim.warmup,
                timescale=optim.timescale,
                cooldown=optim.cooldown,
            )
            if group["peak_lr"] == optim.lr:
                transformer_rate = group["lr"]
        return transformer_rate

    def _update(self, loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self._world_size > 1:
            with peers_at_work("the sum of losses"):
                dist.all_reduce(loss)
        self.scaler.unscale_(self.optimizer)
        grad_norm, finite = clip_and_check(self._parameters, self._config.optim.clip_norm)
        applied = finite & torch.isfinite(loss)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self._device.type == "cuda":
            # The fused kernel reads the flag on the device: the host never waits to learn whether to skip.
            self.optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(applied):
            self.optimizer.step()
        return grad_norm, applied, loss


def _distribute(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Wrap in DDP whose all-reduce sums.

    On the CPU buckets must not be rebuilt after the first step, because that changes the order of sums and with it
    bits; DDP rebuilds them only when it does not search for unused parameters.
    """
    with peers_at_work("the comparison of the ranks' models"):
        network = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=device.type == "cpu",
        )
    network.register_comm_hook(dist.group.WORLD, sum_gradients)
    return network
