"""One split of a data set, opened and checked: ids, questions, bytes and ground truth."""

import os
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, overload

import numpy as np

from sam3ft_api.errors import InvalidDataset
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.account import account_of
from sam3ft_trainer.data.annotations import load_index
from sam3ft_trainer.data.index import Category, CocoIndex, Ints
from sam3ft_trainer.data.layout import Split, SplitPlace, find_split
from sam3ft_trainer.data.phrases import PhraseBook, build_phrase_book, empty_parents
from sam3ft_trainer.data.remote import ObjectSource, Sleep
from sam3ft_trainer.data.report import DatasetReport, ProblemLog, allowed, refuse_beyond_limit
from sam3ft_trainer.data.source import ImageSource, KeyLeavesRoot, KeyMissing
from sam3ft_trainer.data.subsets import few_shot_rows, holdout_rows

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
ANNOTATION_KINDS = frozenset({"box_of_zero_size", "box_outside_image"})


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """One split, ready to be read from many threads.

    Attributes:
        split: train, valid or test.
        index: of the whole annotation file.
        rows: int64, image rows of the index that belong to the split, ascending.
        keys: of the images in `source`, by image row of the index (all rows of the file).
        source: where the images are.
        book: phrases and rules.
        report: the account of the split.
    """

    split: Split
    index: CocoIndex
    rows: Ints
    keys: tuple[str, ...]
    source: ImageSource
    book: PhraseBook
    report: DatasetReport

    @property
    def image_ids(self) -> tuple[int, ...]:
        """COCO image ids of the split, ascending."""
        return tuple(self.index.image_ids[self.rows].tolist())

    @property
    def categories(self) -> tuple[Category, ...]:
        """Categories that are asked, in id order."""
        return self.book.categories

    @property
    def phrases(self) -> tuple[str, ...]:
        """Every phrase that training or evaluation can ask of this split, without repetition."""
        return self.report.phrases

    def size_hw(self, image_id: int) -> tuple[int, int]:
        """Return height and width of an image in pixels, as its annotations are drawn."""
        height, width = self.index.sizes_hw[self.index.row_of_image(image_id)].tolist()
        return height, width

    @property
    def is_remote(self) -> bool:
        """Whether the images come from an object store, so that many should be asked for at a time."""
        return isinstance(self.source, ObjectSource)

    def key_of(self, image_id: int) -> str:
        """Return the key of an image in `source`."""
        return self.keys[self.index.row_of_image(image_id)]

    def etag_of(self, image_id: int) -> str | None:
        """Return the store's mark of an image's content; None for a file of a folder."""
        return self.source.etag(self.key_of(image_id)) if isinstance(self.source, ObjectSource) else None

    def num_bytes(self, image_id: int) -> int:
        """Return the size of an image's file; raises as the source does."""
        return self.source.check(self.key_of(image_id))

    def read_image(self, image_id: int, *, sleep: Sleep = time.sleep) -> bytes:
        """Return an image file's bytes.

        Args:
            image_id: of the file.
            sleep: how to wait while a store does not answer; what it raises ends the call.

        Raises:
            StorageUnavailable, StorageDenied, InvalidDataset: as the source says.
        """
        key = self.key_of(image_id)
        return self.source.fetch(key, sleep=sleep) if isinstance(self.source, ObjectSource) else self.source.get(key)

    def __len__(self) -> int:
        """Return the number of images of the split."""
        return len(self.rows)


@overload
def open_dataset(
    config: TrainingConfig, split: Literal["train"], *, access: DataAccess | None = None
) -> CocoDataset: ...
@overload
def open_dataset(config: TrainingConfig, split: Split, *, access: DataAccess | None = None) -> CocoDataset | None: ...
def open_dataset(config: TrainingConfig, split: Split, *, access: DataAccess | None = None) -> CocoDataset | None:
    """Open one split, check its annotations and that every image file is there; no image is decoded.

    `valid` is the hold-out of train where the data set has no such folder (None when train has a single picture);
    then `train` is the rest. `test` is None where the data set has none. Few-shot subsets apply to train alone.

    Args:
        config: addresses and settings of the data.
        split: to open.
        access: shared by the splits of a run, so that each prefix is listed once; None makes one from this process's
            environment.

    Raises:
        InvalidDataset: see docs/bad-input.md.
        InvalidConfig: no address, an address of an unknown kind, or settings that name unknown categories.
        StorageDenied: a folder or bucket does not exist or may not be read.
        StorageUnavailable: the store does not answer for the whole budget.
    """
    access = access or DataAccess(config, os.environ)
    place = find_split(config.data, split, access)
    is_held_out = split != "test" and find_split(config.data, "valid", access) is None
    if place is None and split == "valid":
        place = find_split(config.data, "train", access)
    if place is None:
        return None
    log = ProblemLog()
    index = load_index(place.annotations, log, cache=access.cache_folder, figures=access.figures)
    keys = _locate_images(index, place, log)
    _check_annotations(index, config, split, log, where=place.address)
    rows = _choose_rows(index, config, split, log, is_held_out=is_held_out)
    if split == "valid" and not len(rows):
        return None
    book = build_phrase_book(index, config.data, strict=split == "train")
    _notice_empty_parents(index, config, log)
    report = account_of(index, rows, book, log, config=config, split=split, address=place.address)
    return CocoDataset(split, index, rows, keys, place.images, book, report)


def _locate_images(index: CocoIndex, place: SplitPlace, log: ProblemLog) -> tuple[str, ...]:
    """Return the key of every image; refuse missing files and paths that leave the root."""
    listed = place.images.files()
    keys = []
    for image_id, name in zip(index.image_ids.tolist(), index.file_names, strict=True):
        try:
            keys.append(place.image_key(name, listed))
        except KeyLeavesRoot as error:
            log.refuse("path_leaves_root", f"image {image_id}: {error}")
        except KeyMissing:
            log.refuse(
                "image_missing",
                f"image {image_id}: file {name!r} is neither in {place.images.address!r} nor in its images/",
            )
    log.raise_refused(place.address)
    _notice_strangers(listed, keys, log)
    return tuple(keys)


def _notice_strangers(listed: dict[str, int], keys: list[str], log: ProblemLog) -> None:
    """Count files that no annotation names, and images that several entries share."""
    named = set(keys)
    if len(named) < len(keys):
        log.add(
            "file_shared",
            "notice",
            f"{len(keys) - len(named)} images share their file with another one",
            count=len(keys) - len(named),
        )
    for key in sorted(listed):
        name = PurePosixPath(key).name
        if name.startswith("._"):
            log.add("junk_file", "notice", f"{key!r} (left by macOS) is ignored")
        elif key not in named and PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES:
            log.add("image_without_entry", "notice", f"{key!r} is in the folder, but not in the annotations; not used")


def _check_annotations(index: CocoIndex, config: TrainingConfig, split: Split, log: ProblemLog, *, where: str) -> None:
    solid = index.is_usable & ~index.is_crowd
    if split == "train" and not solid.any():
        log.refuse("empty_split", "the split is empty: no image has an annotation that can be trained on")
    elif split == "train" and config.scratch.enable_segmentation and not index.has_mask[solid].any():
        log.refuse(
            "no_mask",
            "scratch.enable_segmentation is true, but no annotation has a mask; export polygons or RLE masks, or train "
            "detection",
        )
    log.raise_refused(where)
    limit = allowed(config.data.max_bad, len(index.annotation_ids))
    refuse_beyond_limit(log.problems(), ANNOTATION_KINDS, limit=limit, of="annotations", where=where)


def _choose_rows(index: CocoIndex, config: TrainingConfig, split: Split, log: ProblemLog, *, is_held_out: bool) -> Ints:
    rows = np.arange(len(index.image_ids))
    if is_held_out:
        held = holdout_rows(index.file_names, share=config.data.holdout, seed=config.scratch.seed_value)
        log.add(
            "holdout",
            "notice",
            f"there is no valid/: {len(held)} of {len(rows)} images of train are held out for selection",
            count=len(held),
        )
        if split == "valid":
            return held
        rows = np.setdiff1d(rows, held)
    if split == "train" and config.data.few_shot is not None:
        rows, short = few_shot_rows(index, rows, shots=config.data.few_shot.shots, seed=config.data.few_shot.seed)
        for name, count in short.items():
            log.add("few_shot_short", "notice", f"{name!r} has {count} images, fewer than the shots asked for")
        if not len(rows):
            raise InvalidDataset("the few-shot subset is empty; no image has an annotation that can be trained on")
    return rows


def _notice_empty_parents(index: CocoIndex, config: TrainingConfig, log: ProblemLog) -> None:
    parents = empty_parents(index)
    for category in index.categories:
        if category.id in parents:
            fate = "left out" if config.data.ignore_empty_parents else "asked as a negative in every image"
            log.add(
                "empty_parent_category",
                "notice",
                f"category {category.id} {category.name!r} has no annotation and only groups others; it is {fate}",
            )
