"""The training forward of SAM 3, composed from the submodules of transformers' `Sam3Model`.

Each image is encoded once and each unique phrase once; pairs of them are gathered by `index_select` (the backward of
fancy indexing is not deterministic on the CPU). Without one-to-many queries and dropout the outputs are those of
`Sam3Model.forward` on the repeated inputs; with them, those of upstream's training model.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from transformers import Sam3Model

from sam3ft_api.training import ModelConfig, Part
from sam3ft_trainer.model.checkpointing import Checkpointing
from sam3ft_trainer.model.compiling import LayerCompiler
from sam3ft_trainer.model.decoder import Decoded, Memory, decode
from sam3ft_trainer.model.fusion import fuse
from sam3ft_trainer.model.geometry import geometry_token
from sam3ft_trainer.model.language import encode_text, valid_tokens
from sam3ft_trainer.model.masks import MaskInputs, Masks, decode_masks
from sam3ft_trainer.model.prompt import Prompt
from sam3ft_trainer.model.regularization import OFF, Regularization
from sam3ft_trainer.model.scoring import score_queries
from sam3ft_trainer.model.vision import DETR_LEVEL, MASK_LEVELS, encode_images, sine_positions
from sam3ft_trainer.tensors import Predictions


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """Images after the vision encoder; encode once, ask many phrases.

    Attributes:
        levels: the neck's levels that the task reads, each [I, d, side, side]; the last is the DETR level.
        position_1Kd: position encoding of the DETR level.
        geometry_I1d: the geometry CLS token of each image; None when `model.geometry_cls` is off.
    """

    levels: tuple[Tensor, ...]
    position_1Kd: Tensor
    geometry_I1d: Tensor | None

    def select(self, img_idx_B: Tensor) -> "EncodedImages":
        """Return the images of the given numbers, for callers that hold more images than one forward takes."""
        geometry = None if self.geometry_I1d is None else self.geometry_I1d.index_select(0, img_idx_B)
        return EncodedImages(
            tuple(level.index_select(0, img_idx_B) for level in self.levels), self.position_1Kd, geometry
        )


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Phrases after the text encoder: features [T, K, d] and bool [T, K], False at padding."""

    features_TKd: Tensor
    valid_TK: Tensor


class TrainingModel(nn.Module):
    """`Sam3Model` with upstream's training forward; its parameters are those of `.sam3`, under their own names.

    Dropout, attention dropout and drop path act in `train()` mode only, with the rates of the configuration; the
    `nn.Dropout` modules inside `sam3` are not used. Precision is the caller's autocast.
    """

    def __init__(
        self,
        sam3: Sam3Model,
        config: ModelConfig,
        *,
        checkpointed: tuple[Part, ...] = (),
        compiler: LayerCompiler | None = None,
    ) -> None:
        """Wrap `sam3`.

        Args:
            sam3: the network; its parameters are this module's.
            config: geometry token and rates.
            checkpointed: parts whose activations are recomputed in backward.
            compiler: compiles the layers on their first step (see `Checkpointing`); None compiles nothing.
        """
        super().__init__()
        self.sam3 = sam3
        self.geometry_cls = config.geometry_cls
        self.regularization = Regularization(config.dropout, config.attention_dropout, config.drop_path)
        self.checkpointing = Checkpointing(checkpointed, random=self.regularization.active, compiler=compiler)

    @property
    def _rates(self) -> Regularization:
        return self.regularization if self.training else OFF

    def encode_images(self, pixels_I3SS: Tensor, *, masks: bool) -> EncodedImages:
        """Encode normalised pixels; `masks` adds the neck's finer levels, which only the mask decoder reads."""
        levels = MASK_LEVELS if masks else (DETR_LEVEL,)
        vision = self.sam3.vision_encoder
        features = encode_images(vision, pixels_I3SS, levels, self._rates, self.checkpointing)
        _, channels, height, width = features[-1].shape
        position = sine_positions((height, width), channels, like=features[-1])
        geometry = None
        if self.geometry_cls:
            with self.checkpointing.scope("geometry"):
                tokens = features[-1].flatten(2).transpose(1, 2)
                geometry = geometry_token(self.sam3.geometry_encoder, tokens, position, self._rates, self.checkpointing)
        return EncodedImages(features, position, geometry)

    def encode_text(self, input_ids_TK: Tensor, attention_mask_TK: Tensor) -> EncodedText:
        """Encode tokenised phrases."""
        with self.checkpointing.scope("text"):
            features = encode_text(self.sam3, input_ids_TK, attention_mask_TK, self.checkpointing)
        return EncodedText(features, valid_tokens(attention_mask_TK))

    def forward(
        self,
        pixels_I3SS: Tensor,
        input_ids_TK: Tensor | None,
        attention_mask_TK: Tensor,
        img_idx_B: Tensor,
        txt_idx_B: Tensor,
        *,
        o2m: bool,
        masks: bool,
        text_features_TKD: Tensor | None = None,
    ) -> Predictions:
        """Return the predictions of B pairs, all decoder layers.

        B may be 0 (a micro-batch of quarantined images only, or none at all): one stand-in pair is then computed and
        cut away, so that every parameter that takes part gets a zero gradient and ranks stay in step.

        Args:
            pixels_I3SS: float, normalised; S is the resolution the model was built for.
            input_ids_TK: int64 token ids; ignored, and may be None, when `text_features_TKD` is given.
            attention_mask_TK: 1 at real tokens.
            img_idx_B: int64 image of each pair, on the device.
            txt_idx_B: int64 phrase of each pair, on the device.
            o2m: compute the one-to-many branch.
            masks: compute masks of the last layer and the semantic mask.
            text_features_TKD: projected text features from a `PhraseCache`, instead of running the text encoder.
        """
        if img_idx_B.shape[0] == 0:
            return _without_pairs(self._stand_in(pixels_I3SS, text_features_TKD, o2m=o2m, masks=masks))
        if text_features_TKD is None:
            if input_ids_TK is None:
                raise ValueError("pass input_ids_TK or text_features_TKD")
            text = self.encode_text(input_ids_TK, attention_mask_TK)
        else:
            text = EncodedText(text_features_TKD, valid_tokens(attention_mask_TK))
        images = self.encode_images(pixels_I3SS, masks=masks)
        return self.predict(images, text, img_idx_B, txt_idx_B, o2m=o2m, masks=masks)

    def _stand_in(
        self, pixels_I3SS: Tensor, text_features_TKD: Tensor | None, *, o2m: bool, masks: bool
    ) -> Predictions:
        """Predictions of one black image and one phrase of a single token: finite whatever the micro-batch holds."""
        tokens = self.sam3.config.text_config.max_position_embeddings
        index = torch.zeros(1, dtype=torch.int64, device=pixels_I3SS.device)
        attention_mask = torch.zeros(1, tokens, dtype=torch.int64, device=pixels_I3SS.device)
        attention_mask[:, 0] = 1
        features = None if text_features_TKD is None else text_features_TKD.new_zeros(1, *text_features_TKD.shape[1:])
        return self.forward(
            pixels_I3SS.new_zeros(1, *pixels_I3SS.shape[1:]),
            torch.zeros_like(attention_mask),
            attention_mask,
            index,
            index,
            o2m=o2m,
            masks=masks,
            text_features_TKD=features,
        )

    def predict(
        self,
        images: EncodedImages,
        text: EncodedText,
        img_idx_B: Tensor,
        txt_idx_B: Tensor,
        *,
        o2m: bool,
        masks: bool,
    ) -> Predictions:
        """Return the predictions of pairs of encoded images and phrases; B >= 1.

        The pair `(images[img_idx[b]], text[txt_idx[b]])` is computed alone: no pair's result depends on another's.
        """
        run, rates, sam3 = self.checkpointing, self._rates, self.sam3
        with run.scope("encoder"):
            prompt = Prompt(text.features_TKd.index_select(0, txt_idx_B), text.valid_TK.index_select(0, txt_idx_B))
            if images.geometry_I1d is not None:
                prompt = prompt.with_token(images.geometry_I1d.index_select(0, img_idx_B))
            detr_level = images.levels[-1]
            image_BKd = detr_level.index_select(0, img_idx_B).flatten(2).transpose(1, 2)
            image_BKd = fuse(sam3.detr_encoder, image_BKd, images.position_1Kd, prompt, rates, run)
        with run.scope("decoder"):
            memory = Memory(image_BKd, images.position_1Kd, (detr_level.shape[-2], detr_level.shape[-1]))
            decoded = decode(sam3.detr_decoder, prompt, memory, rates, run, o2m=o2m)
            logits_LBG = score_queries(sam3.dot_product_scoring, decoded.queries_LBGd, prompt, rates.dropout)
        found = None
        if masks:
            with run.scope("mask"):
                one, many = _halves(decoded.queries_LBGd[-1], dim=1, doubled=o2m)
                inputs = MaskInputs(images.levels, img_idx_B, image_BKd, prompt, one, many)
                found = decode_masks(sam3.mask_decoder, inputs, run)
        return _predictions(decoded, logits_LBG, found, o2m=o2m)


def _halves(x: Tensor, *, dim: int, doubled: bool) -> tuple[Tensor, Tensor | None]:
    if not doubled:
        return x, None
    one, many = x.chunk(2, dim=dim)
    return one, many


def _without_pairs(predictions: Predictions) -> Predictions:
    """Cut the pairs away; what is left is empty, but still depends on every parameter."""
    present = {
        field.name: value for field in fields(predictions) if (value := getattr(predictions, field.name)) is not None
    }
    return replace(
        predictions, **{name: value.narrow(1 if "_LB" in name else 0, 0, 0) for name, value in present.items()}
    )


def _predictions(decoded: Decoded, logits_LBG: Tensor, masks: Masks | None, *, o2m: bool) -> Predictions:
    logits, logits_o2m = _halves(logits_LBG, dim=2, doubled=o2m)
    boxes, boxes_o2m = _halves(decoded.boxes_LBG4, dim=2, doubled=o2m)
    return Predictions(
        logits_LBQ=logits,
        boxes_LBQ4=boxes,
        presence_LB=decoded.presence_LB,
        logits_o2m_LBQ=logits_o2m,
        boxes_o2m_LBQ4=boxes_o2m,
        masks_BQhw=None if masks is None else masks.one_BQhw,
        masks_o2m_BQhw=None if masks is None else masks.many_BQhw,
        semantic_B1hw=None if masks is None else masks.semantic_B1hw,
    )
