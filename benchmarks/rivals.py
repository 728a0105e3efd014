"""The rivals of `benchmarks.stream`: torch's DataLoader, and litData's raw streaming where it is installed."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from benchmarks.loader import HEIGHT, SIDE, WIDTH
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from sam3ft_trainer.data.decode import decode_image
from sam3ft_trainer.data.geometry import plain_plan
from sam3ft_trainer.data.transforms import place_image

with suppress(ImportError):
    from litdata.streaming import downloader

    # Its client has no option for a server without TLS; here, because workers are spawned and import this module.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # noqa: SLF001


def decoded(content: bytes) -> Tensor:
    """Return one image, uint8 [3, S, S], as our own loader decodes and resizes it; without boxes."""
    torch.set_num_threads(1)
    image = decode_image(content, size_hw=(HEIGHT, WIDTH))
    return place_image(image.rgb_HW3, plain_plan(SIDE, height=HEIGHT, width=WIDTH))


def warmed(dataset: Any, count: int, size: int, *, workers: int, context: str | None = None) -> Iterator[Any]:
    """Yield "ready" when every worker of a DataLoader has done a batch, then one pass in random order."""
    order = _Order(list(range(min(count, size * max(1, workers)))))
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=size,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=context,
    )
    for _ in loader:
        pass
    order.positions = torch.randperm(count).tolist()
    yield "ready"
    yield from loader


def lit_batches(names: list[str], options: dict[str, str], size: int, *, workers: int) -> Iterator[Any]:
    """Yield batches of litData's StreamingRawDataset as `warmed`; workers are spawned, as its client needs."""
    # Imported here: the package is installed for comparisons alone.
    from litdata import StreamingRawDataset  # noqa: PLC0415

    dataset = StreamingRawDataset(
        names[0].rpartition("/")[0],
        indexer=_Known(names),
        storage_options=options,
        transform=decoded,
        recompute_index=True,
    )
    yield from warmed(dataset, len(names), size, workers=workers, context="spawn" if workers else None)


class _Order(Sampler[int]):
    """An order that may be changed between two passes."""

    def __init__(self, positions: list[int]) -> None:
        self.positions = positions

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


class _Known:
    """An index of names that are known, so that nothing is listed."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def build_or_load_index(self, *_: Any, **__: Any) -> list[Any]:
        from litdata.raw.indexer import FileMetadata  # noqa: PLC0415 - as above

        return [FileMetadata(path=name, size=0) for name in self._names]
