"""The check before training: every split, every annotation, and every image decoded once."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.account import with_problems
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.decode import BadImage, decode_image
from sam3ft_trainer.data.fetch import FetchAhead, Reading
from sam3ft_trainer.data.layout import Split
from sam3ft_trainer.data.prefetch import OrderedPrefetch
from sam3ft_trainer.data.report import DatasetReport, ProblemLog, allowed, refuse_beyond_limit

Progress = Callable[[Split, int, int], None]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
IMAGE_KINDS = frozenset({"not_an_image", "truncated_image", "decompression_bomb", "image_size_mismatch"})
IN_FLIGHT_BYTES = 512 << 20
NOTES = {
    "exif_orientation": "is turned by its EXIF orientation",
    "grey": "is grey, used as RGB",
    "palette": "has a palette, used as RGB",
    "cmyk": "is CMYK, converted to RGB",
    "alpha": "has transparency; the colour below it is used",
    "sixteen_bit": "has 16 bits; the high byte is used",
    "other_mode": "has an unusual colour mode, converted to RGB",
}


def check_dataset(
    config: TrainingConfig,
    *,
    decode: bool = True,
    threads: int = 1,
    progress: Progress = lambda _split, _done, _all: None,
    access: DataAccess | None = None,
) -> dict[Split, DatasetReport]:
    """Return the report of every split there is; `valid` is the hold-out where the data set has none.

    Args:
        config: data, task and bounds.
        decode: read and decode every image; without it only the presence of the files is checked.
        threads: that decode.
        progress: called after every image with the split, the number done and the number of all.
        access: as for `open_dataset`; images from a store go into the node's cache while they are read.

    Raises:
        InvalidDataset: see docs/bad-input.md; also when more images are damaged than `data.max_bad` allows.
        InvalidConfig, StorageDenied, StorageUnavailable: as `open_dataset` and the source.
    """
    access = access or DataAccess(config, os.environ)
    reports: dict[Split, DatasetReport] = {}
    for split in SPLITS:
        dataset = open_dataset(config, split, access=access)
        if dataset is None:
            continue
        reports[split] = _decoded(dataset, config, threads=threads, progress=progress) if decode else dataset.report
    return reports


def _decoded(dataset: CocoDataset, config: TrainingConfig, *, threads: int, progress: Progress) -> DatasetReport:
    log = ProblemLog()
    for done, (image_id, outcome) in enumerate(_outcomes(dataset, threads), start=1):
        name = f"image {image_id} ({dataset.index.file_names[dataset.index.row_of_image(image_id)]!r})"
        if isinstance(outcome, BadImage):
            log.add(outcome.kind, "bad", f"{name}: {outcome}")
        else:
            for note in outcome:
                log.add(f"image_{note}", "notice", f"{name} {NOTES[note]}")
        progress(dataset.split, done, len(dataset))
    report = with_problems(dataset.report, log)
    limit = allowed(config.data.max_bad, len(dataset))
    refuse_beyond_limit(report.problems, IMAGE_KINDS, limit=limit, of="images", where=report.address)
    return report


def _outcomes(dataset: CocoDataset, threads: int) -> Iterator[tuple[int, tuple[str, ...] | BadImage]]:
    fetch = FetchAhead(dataset, iter(dataset.image_ids), has_room=lambda fetched: fetched < IN_FLIGHT_BYTES)
    prefetch = OrderedPrefetch(
        lambda task: (task[0], _try_decode(dataset, *task)),
        (((image_id, fetch.next()), _decoded_bytes(dataset, image_id)) for image_id in dataset.image_ids),
        threads=threads,
        has_room=lambda started: started + fetch.num_bytes < IN_FLIGHT_BYTES,
    )
    with closing(prefetch), closing(fetch):
        for _ in range(len(dataset)):
            yield prefetch.next()


def _decoded_bytes(dataset: CocoDataset, image_id: int) -> int:
    height, width = dataset.size_hw(image_id)
    return 3 * height * width


def _try_decode(dataset: CocoDataset, image_id: int, reading: Reading) -> tuple[str, ...] | BadImage:
    content = reading()
    try:
        return decode_image(content, size_hw=dataset.size_hw(image_id)).notes
    except BadImage as error:
        return error
