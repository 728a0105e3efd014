"""Scoring a model on one split: each image encoded once, each phrase once, all categories of an image together.

Every rank scores the images its loader yields. Detections are gathered on rank 0 as JSON, which computes the scores and
broadcasts them, so that all ranks select alike.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from sam3ft_api.training import EvaluationConfig, Precision
from sam3ft_trainer.evaluate.coco import score_coco
from sam3ft_trainer.evaluate.control import move_detections
from sam3ft_trainer.evaluate.postprocess import Limits, PairKey, choose_detections, collect_candidates
from sam3ft_trainer.evaluate.scores import SplitScores, score_detections
from sam3ft_trainer.evaluate.truth import Detection, Rle, Truth
from sam3ft_trainer.model.training import EncodedText, TrainingModel
from sam3ft_trainer.run.group import Group, Solo
from sam3ft_trainer.run.prefetch import normalise
from sam3ft_trainer.tensors import Batch


class TextEncoder(Protocol):
    """Phrases to encoded text on the device of the model; a phrase cache or the live text encoder."""

    def __call__(self, phrases: Sequence[str], /) -> EncodedText:
        """Return one row for each phrase."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """How a split is run.

    Attributes:
        split: name for the record.
        device: where the model is.
        precision: autocast of the forward; scores and masks are computed in float32.
        masks: predict and score masks.
        group: the ranks that share the split.
        pairs_at_once: (image, phrase) pairs decoded together, for memory.
        pictures: images whose detections are kept for the report.
        control: also score the detections against the annotations of other images, as `control_bbox_AP` and so on.
        on_image: called with the number of images done by this rank, for progress and watchdogs.
    """

    split: str
    device: torch.device
    precision: Precision = "fp32"
    masks: bool = False
    group: Group = field(default_factory=Solo)
    pairs_at_once: int = 16
    pictures: int = 0
    control: bool = False
    on_image: Callable[[int], None] = field(default=lambda _: None)


def evaluate_split(
    model: TrainingModel,
    loader: Iterable[Batch],
    truth: Truth,
    config: EvaluationConfig,
    *,
    text: TextEncoder,
    plan: EvaluationPlan,
) -> SplitScores:
    """Score `model` on the images of `truth`; every rank returns the same scores.

    The model is run in eval mode without gradients and left in the mode it had. Images that the loader yields without
    any pair could not be read: they are left out of the scores and counted.

    Args:
        model: as it trains; EMA weights, if they are to be scored, are in place.
        loader: this rank's share of the split, each image on one rank, all categories of an image in one batch.
        truth: of the whole split, the same on every rank.
        config: detections per image, score threshold.
        text: encodes phrases; called once for each phrase of the split.
        plan: device, precision, process group.
    """
    started = time.monotonic()
    limits = Limits(max_dets=config.max_dets, score_threshold=config.score_threshold)
    was_training = model.training
    model.eval()
    try:
        share = _run(model, loader, truth, limits, text, plan)
    finally:
        model.train(was_training)
    return score_together(share, truth, limits, plan, started=started)


@dataclass(slots=True)
class Share:
    """What one rank found.

    Attributes:
        detections: of this rank's images.
        scored: ids of the images that were run.
        unreadable: ids of the images that could not be read.
    """

    detections: list[Detection] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)


def score_together(share: Share, truth: Truth, limits: Limits, plan: EvaluationPlan, *, started: float) -> SplitScores:
    """Gather all shares on rank 0, score them there, and return the same scores on every rank; a collective.

    Args:
        share: of this rank.
        truth: of the whole split.
        limits: as used to choose the detections.
        plan: split, pictures and group.
        started: monotonic time at which the evaluation began.
    """
    detections = [tuple(item) for item in share.detections]
    gathered = plan.group.gather({"detections": detections, "scored": share.scored, "unreadable": share.unreadable})
    answer = None
    if gathered is not None:
        scores = _score(gathered, truth, limits, plan).model_copy(update={"seconds": time.monotonic() - started})
        answer = scores.model_dump(mode="json")
    return SplitScores.model_validate(plan.group.broadcast(answer))


def _run(
    model: TrainingModel,
    loader: Iterable[Batch],
    truth: Truth,
    limits: Limits,
    text: TextEncoder,
    plan: EvaluationPlan,
) -> Share:
    """Find what is in this rank's images."""
    share = Share()
    phrases = PhraseRows(text)
    # Not inference_mode: a phrase cache that is filled here must stay usable in training.
    with torch.no_grad():
        for batch in loader:
            with_pairs = {batch.image_ids[index] for index in batch.img_idx_B.tolist()}
            share.scored += [image_id for image_id in batch.image_ids if image_id in with_pairs]
            share.unreadable += [image_id for image_id in batch.image_ids if image_id not in with_pairs]
            if with_pairs:
                share.detections += detect(model, batch, truth.sizes_hw, limits, phrases=phrases, plan=plan)
            plan.on_image(len(share.scored) + len(share.unreadable))
    return share


class PhraseRows:
    """Encodes each phrase when it is first asked for, and keeps it."""

    def __init__(self, text: TextEncoder) -> None:
        """Start with no phrase known."""
        self._text = text
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}

    def rows(self, phrases: Sequence[str]) -> EncodedText:
        """Return one row for each phrase, encoding those not asked before."""
        missing = [phrase for phrase in dict.fromkeys(phrases) if phrase not in self._rows]
        if missing:
            encoded = self._text(missing)
            for row, phrase in enumerate(missing):
                self._rows[phrase] = (encoded.features_TKd[row], encoded.valid_TK[row])
        chosen = [self._rows[phrase] for phrase in phrases]
        return EncodedText(
            features_TKd=torch.stack([features for features, _ in chosen]),
            valid_TK=torch.stack([valid for _, valid in chosen]),
        )


def detect(
    model: TrainingModel,
    batch: Batch,
    sizes_hw: Mapping[int, tuple[int, int]],
    limits: Limits,
    *,
    phrases: PhraseRows,
    plan: EvaluationPlan,
) -> list[Detection]:
    """Return the detections of the images of one batch, in pixels of the original images."""
    keys = [
        PairKey(batch.image_ids[image], category, sizes_hw[batch.image_ids[image]])
        for image, category in zip(batch.img_idx_B.tolist(), batch.category_ids, strict=True)
    ]
    with autocast(plan.device, plan.precision):
        pixels = normalise(batch.pixels_I3SS.to(plan.device, non_blocking=True))
        images = model.encode_images(pixels, masks=plan.masks)
        text = phrases.rows(batch.phrases)
    candidates = []
    for part in _chunks(len(keys), plan.pairs_at_once):
        with autocast(plan.device, plan.precision):
            predictions = model.predict(
                images,
                text,
                batch.img_idx_B[part].to(plan.device),
                batch.txt_idx_B[part].to(plan.device),
                o2m=False,
                masks=plan.masks,
            )
        candidates.append(collect_candidates(predictions, keys[part], limits))
    return choose_detections(candidates, limits)


def _chunks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the autocast context of a precision; fp32 computes as written."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def _score(gathered: Sequence[Mapping[str, Any]], truth: Truth, limits: Limits, plan: EvaluationPlan) -> SplitScores:
    """Scores of all ranks' detections; an image that two ranks report (a padded share) counts once."""
    detections: list[Detection] = []
    scored: set[int] = set()
    unreadable: set[int] = set()
    for part in gathered:
        fresh = set(part["scored"]) - scored
        detections += [item for item in map(_detection, part["detections"]) if item.image_id in fresh]
        scored |= fresh
        unreadable |= set(part["unreadable"])
    scores = score_detections(
        truth.only(frozenset(scored)),
        detections,
        split=plan.split,
        limits=limits,
        masks=plan.masks,
        pictures=plan.pictures,
    )
    if plan.control:
        scores = scores.model_copy(
            update={"metrics": scores.metrics | _control(truth.only(frozenset(scored)), detections, limits)}
        )
    return scores.model_copy(update={"unreadable_images": len(unreadable - scored)})


def _control(truth: Truth, detections: Sequence[Detection], limits: Limits) -> dict[str, float | None]:
    """Box scores of the detections on other images, under names of their own."""
    moved = score_coco(truth, move_detections(truth, detections), kind="bbox", max_dets=limits.max_dets)
    return {f"control_bbox_{name}": moved.summary[name] for name in ("AP", "AP50")}


def _detection(fields: Sequence[Any]) -> Detection:
    """A detection from its JSON array."""
    image_id, category_id, score, box, rle, for_ap = fields
    mask = None if rle is None else Rle(size=rle["size"], counts=rle["counts"])
    return Detection(image_id, category_id, score, (box[0], box[1], box[2], box[3]), mask, for_ap)
