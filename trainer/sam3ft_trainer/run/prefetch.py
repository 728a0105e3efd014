"""From the loader's CPU batches to the device, one step ahead, on a stream of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sam3ft_trainer.tensors import Batch, Targets

TextInputs = dict[str, Tensor | None]
"""Keyword arguments of the model's forward that carry the phrases: token ids, or cached features, with their mask."""


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A micro-batch where the model lives.

    Attributes:
        pixels_I3SS: float32 [I, 3, S, S], normalised to mean 0.5 and deviation 0.5 of 0..1.
        text: the T phrases as the model takes them.
        img_idx_B: int64 [B].
        txt_idx_B: int64 [B].
        targets: ground truth; `num_boxes_B` stays on the CPU.
        image_ids: I COCO image ids.
        phrases: T phrases.
    """

    pixels_I3SS: Tensor
    text: TextInputs
    img_idx_B: Tensor
    txt_idx_B: Tensor
    targets: Targets
    image_ids: tuple[int, ...]
    phrases: tuple[str, ...]


def normalise(pixels_I3SS: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (v / 255 - 0.5) / 0.5 of uint8 pixels, as the published processor does; channel after channel in memory.

    The loader's pixels are packed; separating them is left to the device, and costs a core 1 ms an image.
    """
    return pixels_I3SS.to(dtype, memory_format=torch.contiguous_format).div_(255.0).sub_(0.5).div_(0.5)


class DeviceFeed:
    """Copies micro-batches to the device; with CUDA from pinned memory and on a side stream, so that it overlaps."""

    def __init__(
        self, device: torch.device, encode: Callable[[Sequence[str]], TextInputs], *, dtype: torch.dtype = torch.float32
    ) -> None:
        """Feed `device`.

        Args:
            device: where the model lives.
            encode: phrases to the model's text arguments, on any device.
            dtype: of the pixels; float64 only in tests of exactness.
        """
        self._device = device
        self._encode = encode
        self._dtype = dtype
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def put(self, batches: Sequence[Batch]) -> list[DeviceBatch]:
        """Start copying; returns at once with CUDA. Call `ready` before the first kernel that reads the result."""
        if self._stream is None:
            return [self._copy(batch) for batch in batches]
        with torch.cuda.stream(self._stream):
            return [self._copy(batch) for batch in batches]

    def ready(self, batches: Sequence[DeviceBatch]) -> None:
        """Let the present stream wait for the copies, and tell the allocator who uses the memory now."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for batch in batches:
            tensors = [batch.pixels_I3SS, batch.img_idx_B, batch.txt_idx_B, batch.targets.boxes_N4]
            optional = [*batch.text.values(), batch.targets.masks_NSS, batch.targets.mask_valid_N]
            tensors += [tensor for tensor in optional if tensor is not None]
            for tensor in tensors:
                tensor.record_stream(current)

    def _copy(self, batch: Batch) -> DeviceBatch:
        pinned = self._stream is not None

        def move(tensor: Tensor) -> Tensor:
            source = tensor.pin_memory() if pinned and tensor.device.type == "cpu" else tensor
            return source.to(self._device, non_blocking=pinned)

        targets = batch.targets
        return DeviceBatch(
            pixels_I3SS=normalise(move(batch.pixels_I3SS), dtype=self._dtype),
            text={
                name: None if tensor is None else move(tensor) for name, tensor in self._encode(batch.phrases).items()
            },
            img_idx_B=move(batch.img_idx_B),
            txt_idx_B=move(batch.txt_idx_B),
            # Masks are most of a batch's bytes; from memory that is not pinned their copy would hold the host up.
            targets=replace(
                targets,
                boxes_N4=move(targets.boxes_N4),
                masks_NSS=None if targets.masks_NSS is None else move(targets.masks_NSS),
                mask_valid_N=None if targets.mask_valid_N is None else move(targets.mask_valid_N),
            ),
            image_ids=batch.image_ids,
            phrases=batch.phrases,
        )
