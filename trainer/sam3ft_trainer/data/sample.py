"""One image with its pairs, transformed: what a loader thread makes."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.augment import draw_plan
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.decode import BadImage, DecodedImage, Scratch, decode_image
from sam3ft_trainer.data.geometry import (
    Bytes,
    Floats,
    Plan,
    box_mask,
    clamp_boxes,
    place_boxes,
    plain_plan,
    scaled_areas,
)
from sam3ft_trainer.data.index import CocoIndex, Ints
from sam3ft_trainer.data.phrases import Question
from sam3ft_trainer.data.seeds import Draws
from sam3ft_trainer.data.transforms import packed_image, place_image, place_mask

_THREAD = threading.local()


class Pair(NamedTuple):
    """One (image, phrase) pair with its objects in the square input.

    Attributes:
        category_id: COCO category id.
        phrase: the text.
        boxes_N4: float32 [n, 4], cx cy w h as fractions of the square.
        masks_NSS: uint8 [n, S, S]; None in detection.
        mask_valid_N: bool [n]; None in detection.
        exhaustive: no object of the phrase is missing among them.
    """

    category_id: int
    phrase: str
    boxes_N4: Floats
    masks_NSS: Tensor | None
    mask_valid_N: Tensor | None
    exhaustive: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its pairs.

    Attributes:
        image_id: COCO image id.
        pixels_3SS: uint8 [3, S, S], packed: [S, S, 3] in memory.
        pairs: in category order; none for an image that could not be read.
        dropped_small: objects below `data.bounds.min_area`, or cut away whole by a crop.
        dropped_crowded: objects of pairs above `data.bounds.max_objects_per_phrase`.
        bad: why the image could not be read; None when it could.
    """

    image_id: int
    pixels_3SS: Tensor
    pairs: tuple[Pair, ...]
    dropped_small: int = 0
    dropped_crowded: int = 0
    bad: BadImage | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of pixels and masks."""
        masks = sum(pair.masks_NSS.numel() for pair in self.pairs if pair.masks_NSS is not None)
        return self.pixels_3SS.numel() + masks


def train_sample(
    dataset: CocoDataset,
    image_id: int,
    *,
    epoch: int,
    config: TrainingConfig,
    out_3SS: Tensor | None = None,
    content: Callable[[], bytes] | None = None,
) -> Sample:
    """Return one image as it is trained on in one epoch; a function of its arguments alone.

    An image that cannot be decoded comes back black and without pairs, so it keeps its place and weighs nothing.

    Args:
        dataset: train.
        image_id: of the split.
        epoch: counted from 0.
        config: seed, resolution, task, augmentation, bounds.
        out_3SS: packed memory for the pixels, for instance a place in a batch; allocated when None.
        content: returns the image file's bytes; read from the data set when None.
    """
    row = dataset.index.row_of_image(image_id)
    height, width = dataset.size_hw(image_id)
    size = config.scratch.resolution
    image = _decode(dataset, image_id, content)
    if isinstance(image, BadImage):
        return quarantined(image_id, size=size, bad=image, out_3SS=out_3SS)
    draws = Draws(config.scratch.seed_value, epoch, image_id)
    plan = draw_plan(config.augment, draws, size=size, height=height, width=width)
    pairs: list[Pair] = []
    small = crowded = 0
    for question in dataset.book.training_questions(dataset.index, row, draws):
        large = filtered_question(dataset.index, question, plan, min_area=config.data.bounds.min_area)
        pair = place_question(dataset.index, large, plan, masks=config.scratch.enable_segmentation)
        if not plan.is_whole(height=height, width=width):
            pair = _without_invisible(pair)
        count = len(pair.boxes_N4)
        small += len(question.rows) - count
        if count > config.data.bounds.max_objects_per_phrase:
            crowded += count
        elif count or (pair.exhaustive and config.data.negatives):
            pairs.append(pair)
    return Sample(image_id, place_image(image.rgb_HW3, plan, out_3SS=out_3SS), tuple(pairs), small, crowded)


def evaluation_sample(
    dataset: CocoDataset,
    image_id: int,
    *,
    config: TrainingConfig,
    out_3SS: Tensor | None = None,
    content: Callable[[], bytes] | None = None,
) -> Sample:
    """Return one image as it is scored: resized, all categories asked, no object dropped, no mask decoded.

    Ground truth for the metrics stays in original pixels (`evaluate.read`).
    """
    size = config.scratch.resolution
    row = dataset.index.row_of_image(image_id)
    height, width = dataset.size_hw(image_id)
    image = _decode(dataset, image_id, content)
    if isinstance(image, BadImage):
        return quarantined(image_id, size=size, bad=image, out_3SS=out_3SS)
    plan = plain_plan(size, height=height, width=width)
    usable = dataset.index.is_usable
    pairs = [
        place_question(dataset.index, question._replace(rows=question.rows[usable[question.rows]]), plan, masks=False)
        for question in dataset.book.evaluation_questions(dataset.index, row)
    ]
    return Sample(image_id, place_image(image.rgb_HW3, plan, out_3SS=out_3SS), tuple(pairs))


def place_question(index: CocoIndex, question: Question, plan: Plan, *, masks: bool) -> Pair:
    """Return a pair with every object of the question, none dropped."""
    return _placed(index, question, _clamped(index, question.rows)[0], plan, masks=masks)


def filtered_question(index: CocoIndex, question: Question, plan: Plan, *, min_area: float) -> Question:
    """Return the question with the objects that pass upstream's size filter; a crop drops what lies outside it."""
    if not len(question.rows):
        return question
    boxes, areas = _clamped(index, question.rows)
    height, width = _size_of(index, question.rows)
    scaled = scaled_areas(boxes, areas, plan, height=height, width=width)
    return question._replace(rows=question.rows[(scaled >= min_area) & (scaled > 0)])


def quarantined(image_id: int, *, size: int, bad: BadImage, out_3SS: Tensor | None = None) -> Sample:
    """Return the stand-in of an image that cannot be read: black, without pairs."""
    pixels = packed_image(size) if out_3SS is None else out_3SS.zero_()
    return Sample(image_id, pixels, (), bad=bad)


def _decode(dataset: CocoDataset, image_id: int, content: Callable[[], bytes] | None = None) -> DecodedImage | BadImage:
    read = dataset.read_image(image_id) if content is None else content()
    try:
        return decode_image(read, size_hw=dataset.size_hw(image_id), scratch=_scratch_of_thread())
    except BadImage as error:
        error.sha256 = hashlib.sha256(read).hexdigest()
        return error


def _scratch_of_thread() -> Scratch:
    if not hasattr(_THREAD, "scratch"):
        _THREAD.scratch = Scratch()
    scratch: Scratch = _THREAD.scratch
    return scratch


def _clamped(index: CocoIndex, rows: Ints) -> tuple[Floats, Floats]:
    height, width = _size_of(index, rows)
    return clamp_boxes(index.boxes_m4[rows], height=height, width=width)


def _size_of(index: CocoIndex, rows: Ints) -> tuple[int, int]:
    """Return the size of the image that all `rows` belong to; 1 x 1 without rows, where it does not matter."""
    height, width = index.sizes_hw[index.image_rows[rows[0]]].tolist() if len(rows) else (1, 1)
    return height, width


def _placed(index: CocoIndex, question: Question, boxes_N4: Floats, plan: Plan, *, masks: bool) -> Pair:
    pair = Pair(
        category_id=question.category_id,
        phrase=question.phrase,
        boxes_N4=place_boxes(boxes_N4, plan),
        masks_NSS=None,
        mask_valid_N=None,
        exhaustive=question.exhaustive,
    )
    if not masks:
        return pair
    placed = torch.zeros(len(boxes_N4), plan.size, plan.size, dtype=torch.uint8)
    for place, row in enumerate(question.rows.tolist()):
        mask = _object_mask(index, row, boxes_N4[place])
        if mask is not None:
            placed[place] = place_mask(mask, plan)
    valid = torch.from_numpy(index.has_mask[question.rows])
    return pair._replace(masks_NSS=placed, mask_valid_N=valid)


def _object_mask(index: CocoIndex, row: int, box_xyxy: Floats) -> Bytes | None:
    """Return the mask at the size of the image, an all-zero one replaced by its box; None without a mask."""
    segmentation = index.segmentations.get(row)
    if segmentation is None:
        return None
    height, width = _size_of(index, np.asarray([row]))
    mask = segmentation.decode(height, width)
    return mask if mask.any() else box_mask(box_xyxy, height=height, width=width)


def _without_invisible(pair: Pair) -> Pair:
    """Return the pair without objects whose mask a crop has cut away although a corner of their box is left."""
    if pair.masks_NSS is None or pair.mask_valid_N is None:
        return pair
    seen = ~pair.mask_valid_N | pair.masks_NSS.flatten(1).bool().any(dim=1)
    return pair._replace(
        boxes_N4=pair.boxes_N4[seen.numpy()], masks_NSS=pair.masks_NSS[seen], mask_valid_N=pair.mask_valid_N[seen]
    )
