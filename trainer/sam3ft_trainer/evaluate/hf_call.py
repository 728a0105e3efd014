"""Scoring the plain Hugging Face call: what users get who call `Sam3Model` with an image and a text alone.

It differs from the trainer's forward in two ways. With text alone, `Sam3Model` skips the geometry encoder, whose CLS
token training appends to every phrase; and its processor enlarges mask probabilities where upstream enlarges logits.
Both sets of scores stand side by side in the model card.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Sam3Model, Sam3Processor
from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput

from sam3ft_api.training import EvaluationConfig
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.decode import BadImage, decode_image
from sam3ft_trainer.evaluate.postprocess import (
    Candidates,
    Limits,
    PairKey,
    choose_detections,
    reduce_queries,
)
from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.evaluate.split import EvaluationPlan, Share, autocast, score_together
from sam3ft_trainer.evaluate.truth import Detection, Truth
from sam3ft_trainer.model.text import NUM_TOKENS

_EVERYTHING = -1.0
"""A threshold below every score, so that the processor filters nothing."""


def score_hf_call(
    sam3: Sam3Model,
    processor: Sam3Processor,
    dataset: CocoDataset,
    truth: Truth,
    config: EvaluationConfig,
    *,
    plan: EvaluationPlan,
) -> SplitScores:
    """Score `Sam3Model.__call__` with text alone on a split; every rank returns the same scores.

    Vision features are computed once for each image and text features once for each category, by the model's own
    `get_vision_features` and `get_text_features`, which its documentation recommends. Scores, boxes and masks come from
    the processor's `post_process_*` methods. A phrase over 32 tokens, which the processor refuses, is cut.

    Args:
        sam3: the model; its text encoder must be in memory.
        processor: as exported.
        dataset: the split; images are read again, at their original size. A rank takes every world-size-th image.
        truth: of the split.
        config: detections per image, score threshold.
        plan: device, precision, masks, group.
    """
    started = time.monotonic()
    limits = Limits(max_dets=config.max_dets, score_threshold=config.score_threshold)
    was_training = sam3.training
    sam3.eval()
    try:
        share = _PlainCall(sam3, processor, limits, plan).run(dataset)
    finally:
        sam3.train(was_training)
    return score_together(share, truth, limits, plan, started=started)


@dataclass(frozen=True, slots=True)
class _PlainCall:
    """The call with everything that stays the same from image to image."""

    sam3: Sam3Model
    processor: Sam3Processor
    limits: Limits
    plan: EvaluationPlan

    @torch.no_grad()
    def run(self, dataset: CocoDataset) -> Share:
        """Find what is in this rank's images."""
        share = Share()
        with autocast(self.plan.device, self.plan.precision):
            texts = [self._encode(phrases[0]) for phrases in dataset.book.phrases]
            for image_id in dataset.image_ids[self.plan.group.rank :: self.plan.group.world_size]:
                try:
                    found = self._detect(dataset, image_id, texts)
                except BadImage:
                    share.unreadable.append(image_id)
                else:
                    share.scored.append(image_id)
                    share.detections += found
                self.plan.on_image(len(share.scored) + len(share.unreadable))
        return share

    def _encode(self, phrase: str) -> tuple[Any, Tensor]:
        """Text features and attention mask, by the public call."""
        tokens = self.processor.tokenizer(
            phrase, return_tensors="pt", padding="max_length", truncation=True, max_length=NUM_TOKENS
        ).to(self.plan.device)
        return self.sam3.get_text_features(**tokens, return_dict=True), tokens["attention_mask"]

    def _detect(self, dataset: CocoDataset, image_id: int, texts: Sequence[tuple[Any, Tensor]]) -> list[Detection]:
        size_hw = dataset.size_hw(image_id)
        image = Image.fromarray(decode_image(dataset.read_image(image_id), size_hw=size_hw).rgb_HW3)
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"].to(self.plan.device)
        vision = self.sam3.get_vision_features(pixel_values=pixels)
        candidates = []
        for category, (text, attention_mask) in zip(dataset.book.categories, texts, strict=True):
            outputs = self.sam3(vision_embeds=vision, text_embeds=text, attention_mask=attention_mask)
            candidates.append(self._reduce(outputs, PairKey(image_id, category.id, size_hw)))
        return choose_detections(candidates, self.limits, enlarge=self._enlarge)

    def _reduce(self, outputs: Any, pair: PairKey) -> Candidates:
        found = self.processor.post_process_object_detection(
            outputs, threshold=_EVERYTHING, target_sizes=[pair.size_hw]
        )[0]
        masks = outputs.pred_masks if self.plan.masks else None
        return reduce_queries(found["scores"][None].float(), found["boxes"][None].float(), masks, [pair], self.limits)

    def _enlarge(self, mask_logits_Khw: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Masks as the processor makes them; the other outputs it wants are of no consequence here."""
        count = mask_logits_Khw.shape[0]
        outputs = Sam3ImageSegmentationOutput(
            pred_logits=mask_logits_Khw.new_zeros(1, count),
            pred_boxes=mask_logits_Khw.new_zeros(1, count, 4),
            pred_masks=mask_logits_Khw[None],
        )
        made = self.processor.post_process_instance_segmentation(outputs, threshold=_EVERYTHING, target_sizes=[size_hw])
        masks: Tensor = made[0]["masks"].bool()
        return masks
