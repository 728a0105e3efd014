"""From raw predictions to detections in the original image, as the upstream trainer does it.

    score = sigmoid(logit) * sigmoid(presence logit)
    box   = cx cy w h as fractions -> left, top, right, bottom in original pixels, not clipped to the image
    mask  = logits enlarged bilinearly (align_corners false) to the original size, then sigmoid > 0.5

Scores and coordinates are rounded to five digits before the best of an image are chosen over all of its categories.
No suppression of overlaps, no score threshold. Source: postprocessors and prediction dumper of facebookresearch/sam3.

Two stages keep memory bounded with many categories: `collect_candidates` reduces the predictions of some pairs to what
may still be chosen, `choose_detections` picks among the candidates of all pairs of an image and then enlarges masks.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from sam3ft_trainer.evaluate.truth import Detection, Rle
from sam3ft_trainer.tensors import Predictions

DIGITS = 5
"""Decimal digits that scores and coordinates keep."""
_MASK_PIXELS_PER_CHUNK = 1 << 25
"""Pixels of enlarged logits held at a time: 128 MiB of float32."""


@dataclass(frozen=True, slots=True)
class PairKey:
    """Where the predictions of one (image, phrase) pair belong.

    Attributes:
        image_id: COCO id of the image.
        category_id: COCO id of the category.
        size_hw: height and width of the original image in pixels.
    """

    image_id: int
    category_id: int
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many detections stay.

    Attributes:
        max_dets: best detections kept per image over all categories, and per pair for those above the threshold.
        score_threshold: from here on a detection is kept for cgF1 even beyond the image's best.
    """

    max_dets: int = 100
    score_threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class Candidates:
    """K detections that may still be chosen, from one chunk of pairs.

    Attributes:
        pairs: key of each of the K candidates.
        scores_K: float64, rounded.
        boxes_K4: float64 left, top, width, height in original pixels, rounded.
        mask_logits_Khw: on the device of the predictions; None in detection.
    """

    pairs: tuple[PairKey, ...]
    scores_K: NDArray[np.float64]
    boxes_K4: NDArray[np.float64]
    mask_logits_Khw: Tensor | None


def scores_of(logits_BQ: Tensor, presence_B: Tensor) -> Tensor:
    """Return sigmoid(logit) * sigmoid(presence), [B, Q], in the dtype of the logits."""
    return logits_BQ.sigmoid() * presence_B.sigmoid()[:, None]


def boxes_in_pixels(boxes_BQ4: Tensor, sizes_hw: Sequence[tuple[int, int]]) -> Tensor:
    """Return cx cy w h fractions as left, top, right, bottom in pixels of each pair's original image, not clipped."""
    cx, cy, w, h = boxes_BQ4.unbind(-1)
    corners = torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)
    scale_B4 = corners.new_tensor([[width, height, width, height] for height, width in sizes_hw]).reshape(-1, 4)
    return corners * scale_B4[:, None, :]


def masks_in_pixels(mask_logits_Khw: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return bool masks [K, height, width]: logits enlarged bilinearly, then sigmoid > 0.5."""
    enlarged = F.interpolate(mask_logits_Khw[None].float(), size=size_hw, mode="bilinear", align_corners=False)[0]
    return enlarged.sigmoid() > 0.5


Enlarge = Callable[[Tensor, tuple[int, int]], Tensor]
"""Mask logits [K, h, w] and the original size to bool masks [K, height, width]."""


def encode_masks(mask_logits_Khw: Tensor, size_hw: tuple[int, int], enlarge: Enlarge = masks_in_pixels) -> list[Rle]:
    """Enlarge and encode K masks, a bounded number of pixels at a time."""
    height, width = size_hw
    step = max(1, _MASK_PIXELS_PER_CHUNK // (height * width))
    encoded: list[Rle] = []
    for part in torch.split(mask_logits_Khw, step):
        # Transposed on the device, so that the encoder finds the columns contiguous without another copy here.
        columns_KWH = enlarge(part, size_hw).transpose(1, 2).contiguous().to(torch.uint8).detach().cpu().numpy()
        encoded += [
            Rle(size=[height, width], counts=rle["counts"].decode("ascii"))
            for rle in coco_mask.encode(columns_KWH.transpose(2, 1, 0))
        ]
    return encoded


def collect_candidates(predictions: Predictions, pairs: Sequence[PairKey], limits: Limits) -> Candidates:
    """Reduce the final layer of some pairs to the detections that `choose_detections` may still choose.

    Args:
        predictions: final layer of the B pairs, one-to-many branch ignored.
        pairs: B keys, in the order of the predictions.
        limits: how many stay.

    Raises:
        ValueError: the numbers of keys and of pairs differ.
    """
    corners = boxes_in_pixels(predictions.boxes_LBQ4[-1].float(), [pair.size_hw for pair in pairs])
    scores = scores_of(predictions.logits_LBQ[-1].float(), predictions.presence_LB[-1].float())
    return reduce_queries(scores, corners, predictions.masks_BQhw, pairs, limits)


def reduce_queries(
    scores_BQ: Tensor, corners_BQ4: Tensor, masks_BQhw: Tensor | None, pairs: Sequence[PairKey], limits: Limits
) -> Candidates:
    """Round the scores and boxes of all queries and keep what may still be chosen.

    Args:
        scores_BQ: 0..1.
        corners_BQ4: left, top, right, bottom in original pixels.
        masks_BQhw: mask logits; None in detection.
        pairs: B keys.
        limits: how many stay.

    Raises:
        ValueError: the numbers of keys and of pairs differ.
    """
    num_pairs, num_queries = scores_BQ.shape
    if len(pairs) != num_pairs:
        raise ValueError(f"{len(pairs)} keys for predictions of {num_pairs} pairs; give one key for each pair")
    boxes = torch.cat((corners_BQ4[..., :2], corners_BQ4[..., 2:] - corners_BQ4[..., :2]), dim=-1)
    together = torch.cat((scores_BQ[..., None], boxes), dim=-1).reshape(-1, 5).detach().double().cpu().numpy()
    rounded = np.round(together, DIGITS)
    chosen, _ = _choose(rounded[:, 0], [pair for pair in pairs for _ in range(num_queries)], limits)
    logits = None
    if masks_BQhw is not None:
        flat = masks_BQhw.reshape(num_pairs * num_queries, *masks_BQhw.shape[-2:])
        logits = flat.index_select(0, torch.as_tensor(chosen, device=flat.device))
    return Candidates(
        pairs=tuple(pairs[index // num_queries] for index in chosen),
        scores_K=rounded[chosen, 0],
        boxes_K4=rounded[chosen, 1:],
        mask_logits_Khw=logits,
    )


def choose_detections(
    candidates: Sequence[Candidates], limits: Limits, *, enlarge: Enlarge = masks_in_pixels
) -> list[Detection]:
    """Choose among the candidates of all pairs of some images.

    Args:
        candidates: chunks that together hold every pair of the images.
        limits: the same as when they were collected.
        enlarge: how mask logits become masks; upstream's way unless told otherwise.

    Returns:
        Detections in the order of pairs and queries. Equal scores at the cut keep the earlier pair and query.
    """
    pairs = [pair for part in candidates for pair in part.pairs]
    if not pairs:
        return []
    scores = np.concatenate([part.scores_K for part in candidates])
    boxes = np.concatenate([part.boxes_K4 for part in candidates])
    chosen, for_ap = _choose(scores, pairs, limits)
    masks = _masks_of(candidates, chosen, enlarge)
    return [
        Detection(
            image_id=pairs[index].image_id,
            category_id=pairs[index].category_id,
            score=float(scores[index]),
            box_xywh=(float(boxes[index][0]), float(boxes[index][1]), float(boxes[index][2]), float(boxes[index][3])),
            rle=masks.get(int(index)),
            for_ap=bool(best),
        )
        for index, best in zip(chosen, for_ap, strict=True)
    ]


def postprocess(predictions: Predictions, pairs: Sequence[PairKey], limits: Limits) -> list[Detection]:
    """Return the detections of some images from the predictions of all of their pairs at once."""
    return choose_detections([collect_candidates(predictions, pairs, limits)], limits)


def _choose(
    scores_K: NDArray[np.float64], pairs: Sequence[PairKey], limits: Limits
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Indices that stay, ascending, and for each whether it is among the best of its image."""
    by_image: dict[int, list[int]] = defaultdict(list)
    by_pair: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_image[pair.image_id].append(index)
        if scores_K[index] >= limits.score_threshold:
            by_pair[pair.image_id, pair.category_id].append(index)
    best = {index for group in by_image.values() for index in _top(scores_K, group, limits.max_dets)}
    above = {index for group in by_pair.values() for index in _top(scores_K, group, limits.max_dets)}
    chosen = sorted(best | above)
    return np.array(chosen, dtype=np.int64), np.array([index in best for index in chosen], dtype=np.bool_)


def _top(scores_K: NDArray[np.float64], group: Sequence[int], count: int) -> list[int]:
    """The `count` members of `group` with the highest scores; among equals the earlier ones."""
    indices = np.asarray(group, dtype=np.int64)
    order = np.argsort(-scores_K[indices], kind="stable")[:count]
    return [int(index) for index in indices[order]]


def _masks_of(candidates: Sequence[Candidates], chosen: NDArray[np.int64], enlarge: Enlarge) -> dict[int, Rle]:
    """Masks of the chosen candidates by their index over all chunks; empty in detection."""
    masks: dict[int, Rle] = {}
    start = 0
    for part in candidates:
        logits = part.mask_logits_Khw
        here = [int(index) for index in chosen if start <= index < start + len(part.pairs)]
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in here:
            by_size[part.pairs[index - start].size_hw].append(index)
        if logits is not None:
            for size_hw, indices in by_size.items():
                rows = torch.as_tensor([index - start for index in indices], device=logits.device)
                masks.update(zip(indices, encode_masks(logits.index_select(0, rows), size_hw, enlarge), strict=True))
        start += len(part.pairs)
    return masks
