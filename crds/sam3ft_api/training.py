"""The config document: exactly what the trainer reads, and the only place where such a setting exists.

Sections `scratch`, `model`, `data`, `augment`, `loss` and `optim` change the numbers and make up the digest that a
checkpoint prefix records; `runtime`, `tracking`, `checkpoint`, `evaluation`, `export`, `storage` and `identity` may
differ between attempts.
Upstream's names are kept where upstream has a setting (`scratch.enable_segmentation`, `scratch.resolution`, ...).
The sentence under each field is its documentation; docs/api.md is generated from it.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sam3ft_api import limits
from sam3ft_api.fields import (
    Address,
    CategoryName,
    Compile,
    Flag,
    Number,
    Part,
    Phrase,
    Positive,
    Precision,
    Rate,
    Share,
    Steps,
    Task,
    Weight,
    Whole,
)
from sam3ft_api.section import Section
from sam3ft_api.training_run import (
    CheckpointConfig,
    EvaluationConfig,
    ExportConfig,
    IdentityConfig,
    RuntimeConfig,
    StorageConfig,
    TrackingConfig,
)

__all__ = [
    "AugmentConfig",
    "BoundsConfig",
    "CheckpointConfig",
    "Compile",
    "DataConfig",
    "EvaluationConfig",
    "ExportConfig",
    "FewShotConfig",
    "IdentityConfig",
    "LossConfig",
    "LossWeights",
    "ModelConfig",
    "OptimConfig",
    "Part",
    "Precision",
    "RuntimeConfig",
    "ScratchConfig",
    "Section",
    "SplitConfig",
    "StorageConfig",
    "Task",
    "TrackingConfig",
    "TrainingConfig",
]


class ScratchConfig(Section):
    """The knobs most runs touch, under upstream's names."""

    enable_segmentation: Flag = False
    """Train boxes and masks; false trains boxes alone."""
    resolution: Annotated[Whole, Field(ge=28, le=2016)] = 1008
    """Side of the square model input in pixels, a multiple of the patch size (14)."""
    train_batch_size: Annotated[Whole, Field(ge=1, le=limits.MAX_GLOBAL_BATCH)] = 2
    """Images per optimizer step over all processes together."""
    max_data_epochs: Annotated[Number, Field(gt=0, le=limits.MAX_EPOCHS)] = 20
    """Passes over the training images."""
    max_steps: Annotated[Whole, Field(ge=1, le=limits.MAX_STEP)] | None = None
    """Optimizer steps; overrides max_data_epochs."""
    max_duration_s: Annotated[Number, Field(gt=0, le=1e9)] | None = None
    """Wall-clock budget of training, s; the cool-down starts in time to end within it."""
    seed_value: Annotated[Whole, Field(ge=0, lt=2**63)] = 123
    """Seed of the order, the augmentation, the hold-out and dropout."""
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; fp16 comes with loss scaling. Weights and optimizer state stay fp32."""

    @model_validator(mode="after")
    def _resolution_fits_the_patches(self) -> Self:
        if self.resolution % 14:
            lower = self.resolution // 14 * 14
            raise ValueError(
                f"resolution {self.resolution} is not a multiple of the patch size 14; "
                f"the nearest are {lower} and {lower + 14}"
            )
        return self


class ModelConfig(Section):
    """Where the weights come from, and how the model is run in training."""

    uri: Address = "preset:tiny"
    """Folder of weights in Hugging Face form, hf://owner/name@revision, or preset:NAME for random weights."""
    freeze: Annotated[tuple[Part, ...], Field(max_length=7)] = ()
    """Parts that are not trained."""
    geometry_cls: Flag = True
    """Append the geometry CLS token to the text tokens, as upstream."""
    o2m: Flag = True
    """One-to-many (DAC) queries in training."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Residual and FFN dropout of DETR and geometry parts."""
    attention_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Dropout of the attention weights in DETR and geometry parts."""
    drop_path: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Stochastic depth of the last ViT block; linear from 0."""
    vit_layer_norm_eps: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Epsilon of the ViT's layer norms; None keeps the folder's value."""


class SplitConfig(Section):
    """Addresses of one split when the folder layout differs from `SPLIT/_annotations.coco.json`."""

    images: Address | None = None
    """Folder or prefix of the images; None looks beside the annotations and in images/."""
    annotations: Address | None = None
    """COCO JSON file; None is SPLIT/_annotations.coco.json under data.uri."""


class BoundsConfig(Section):
    """Upstream's size and count filters; what they drop is counted and shown."""

    min_area: Share = 1e-6
    """Smallest object area as a fraction of the transformed image; smaller objects are dropped."""
    max_objects_per_phrase: Annotated[Whole, Field(ge=1, le=100_000)] = 200
    """A phrase with more objects in an image is dropped."""


class FewShotConfig(Section):
    """A seeded subset with at least `shots` annotated images for each category."""

    shots: Annotated[Whole, Field(ge=1, le=100_000)]
    """Annotated images per category."""
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    """Seed of the choice."""


class DataConfig(Section):
    """What is trained on, and under which phrases."""

    uri: Address | None = None
    """Folder, or s3://, gs://, az:// with bucket and prefix, that holds train/ and optionally valid/ and test/."""
    train: SplitConfig = SplitConfig()
    """Addresses of the training split, if they differ."""
    valid: SplitConfig = SplitConfig()
    """Addresses of the selection split, if they differ."""
    test: SplitConfig = SplitConfig()
    """Addresses of the test split, if they differ."""
    on_change: Literal["refuse", "restartEpoch"] = "refuse"
    """What to do on resume when the annotations have changed since the newest commit."""
    phrases: dict[CategoryName, tuple[Phrase, ...]] = Field(default_factory=dict)
    """Category name to the phrases that describe it; a category that is not named is asked for by its name."""
    annotation_phrases: Flag = True
    """Use an annotation's own noun phrase (`noun_phrase` or `phrase`) where it has one."""
    max_phrases_per_image: Annotated[Whole, Field(ge=1, le=limits.MAX_PHRASES_PER_IMAGE)] = 16
    """Phrases asked of one image: all up to here; beyond, all present ones and a seeded sample of absent ones."""
    negatives: Flag = True
    """Ask for categories that are absent from an image."""
    exhaustive: Flag | tuple[CategoryName, ...] = True
    """Categories annotated completely, true for all; an absent box of another one is no negative."""
    ignore_empty_parents: Flag = True
    """Leave out categories without annotations that others name as supercategory (Roboflow's id 0)."""
    holdout: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """Share of train that selects when there is no valid split."""
    few_shot: FewShotConfig | None = None
    """Train on a seeded subset; None takes all images."""
    bounds: BoundsConfig = BoundsConfig()
    """Upstream's size and count filters."""
    max_bad: Share = 0.001
    """Share of unreadable images and annotations that fails the run; one is always allowed, a whole split never."""


class AugmentConfig(Section):
    """Train-time transforms. The default is upstream's: random square resize, padding at a random place."""

    resize_and_pad: Flag = True
    """Draw a size and pad; false resizes every image to the full resolution."""
    min_scale: Annotated[Number, Field(gt=0, le=1)] = 480 / 1008
    """Smallest drawn side as a share of the resolution; steps of 32 px at 1008."""
    horizontal_flip: Share = 0.0
    """Probability of a mirror image, left to right."""
    vertical_flip: Share = 0.0
    """Probability of a mirror image, top to bottom."""
    quarter_turns: Flag = False
    """Turn by 0, 90, 180 or 270 degrees, each with equal probability."""
    crop: Share = 0.0
    """Probability of a random crop before the resize."""
    crop_min_scale: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Smallest crop as a share of each side."""
    tiles: Annotated[Whole, Field(ge=1, le=16)] = 1
    """Cut every training image into n x n tiles, one drawn per epoch, for small objects."""
    color: Share = 0.0
    """Strength of brightness, contrast and saturation jitter."""


class LossWeights(Section):
    """Weights of the terms, upstream's values."""

    loss_bbox: Weight = 5.0
    """L1 distance of the boxes."""
    loss_giou: Weight = 2.0
    """Generalised IoU of the boxes."""
    loss_ce: Weight = 20.0
    """Classification of the queries."""
    presence_loss: Weight = 20.0
    """Whether the phrase is in the image at all."""
    loss_mask: Weight = 200.0
    """Focal loss of the masks."""
    loss_dice: Weight = 10.0
    """Dice loss of the masks."""
    loss_semantic_seg: Weight = 20.0
    """Cross-entropy of the semantic map."""
    loss_semantic_dice: Weight = 30.0
    """Dice loss of the semantic map."""


class LossConfig(Section):
    """Losses and matchers, upstream's values."""

    weights: LossWeights = LossWeights()
    """Weights of the terms."""
    pos_weight: Positive = 10.0
    """Weight of positive queries in the classification."""
    o2m_weight: Weight = 2.0
    """Weight of the one-to-many branch."""
    o2m_alpha: Share = 0.3
    """Balance of score and IoU in the one-to-many matching."""
    o2m_threshold: Share = 0.4
    """Smallest matching value in the one-to-many matching."""
    o2m_topk: Annotated[Whole, Field(ge=1, le=1000)] = 4
    """Queries per object in the one-to-many matching."""
    cost_class: Weight = 2.0
    """Weight of the score in the one-to-one matching."""
    cost_bbox: Weight = 5.0
    """Weight of the box distance in the one-to-one matching."""
    cost_giou: Weight = 2.0
    """Weight of the generalised IoU in the one-to-one matching."""
    mask_points: Annotated[Whole, Field(ge=16, le=1_000_000)] | None = None
    """Points sampled per mask; None uses every pixel, as upstream."""
    mask_oversample_ratio: Annotated[Number, Field(ge=1, le=100)] = 3.0
    """Candidates per sampled point."""
    mask_importance_ratio: Share = 0.75
    """Share of the points taken where the mask is least certain."""
    mask_chunk: Annotated[Whole, Field(ge=1, le=1024)] = 8
    """Masks per checkpointed chunk; bounds memory, not the result."""


class OptimConfig(Section):
    """AdamW, its three rates and the inverse-square-root schedule, upstream's values."""

    lr: Rate = 8e-5
    """Peak rate of everything but the backbones."""
    lr_vision_backbone: Rate | None = None
    """Peak rate of the vision backbone; None: lr x 0.3125, upstream's proportion."""
    lr_language_backbone: Rate | None = None
    """Peak rate of the text backbone; None: lr x 0.0625, upstream's proportion."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 0.9
    """Factor of the rate from each ViT block to the one below."""
    weight_decay: Share = 0.1
    """AdamW's decay of weights; biases and norms have none."""
    betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's averages of gradient and square."""
    eps: Annotated[Number, Field(gt=0, le=1)] = 1e-8
    """AdamW's epsilon."""
    warmup: Steps = 20
    """Steps of linear warm-up."""
    timescale: Annotated[Whole, Field(ge=1, le=limits.MAX_STEP)] = 20
    """Steps after which the rate begins to fall with the inverse square root."""
    cooldown: Steps = 20
    """Steps of linear cool-down to zero."""
    clip_norm: Positive | None = 0.1
    """Global L2 norm to which gradients are clipped; None does not clip."""
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay of the weights' average, which is then evaluated and exported; None keeps no average."""
    non_finite_budget: Steps = 20
    """Skipped updates allowed within the last 1,000 steps."""


class TrainingConfig(Section):
    """Everything the trainer reads, validated as a whole."""

    scratch: ScratchConfig = ScratchConfig()
    """The knobs most runs touch."""
    model: ModelConfig = ModelConfig()
    """Where the weights come from, and how the model is run in training."""
    data: DataConfig = DataConfig()
    """What is trained on, and under which phrases."""
    augment: AugmentConfig = AugmentConfig()
    """Train-time transforms."""
    loss: LossConfig = LossConfig()
    """Losses and matchers."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    runtime: RuntimeConfig = RuntimeConfig()
    """How the work is laid out on the machine."""
    tracking: TrackingConfig = TrackingConfig()
    """Where curves go besides the run's own files."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Where and when the state is committed."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is scored, when, and what selects."""
    export: ExportConfig = ExportConfig()
    """The model that is handed back."""
    storage: StorageConfig = StorageConfig()
    """Which storage profiles are used."""
    identity: IdentityConfig = IdentityConfig()
    """Who runs."""

    @model_validator(mode="after")
    def _mask_metric_needs_masks(self) -> Self:
        if self.evaluation.metric.startswith("segm") and not self.scratch.enable_segmentation:
            raise ValueError(
                f"evaluation.metric {self.evaluation.metric!r} needs masks, and scratch.enable_segmentation is false; "
                "choose bbox_AP, bbox_AP50 or cgF1, or train segmentation"
            )
        return self

    @property
    def task(self) -> Task:
        """`segmentation` when masks are trained, else `detection`."""
        return "segmentation" if self.scratch.enable_segmentation else "detection"

    def numbers(self) -> dict[str, Any]:
        """Return every setting that changes the numbers, by section, as JSON values.

        Addresses of data and weights are left out, because what they hold is digested by the trainer itself.
        """
        sections = self.model_dump(mode="json", include={"scratch", "model", "data", "augment", "loss", "optim"})
        sections["model"].pop("uri")
        for key in ("uri", "train", "valid", "test", "on_change", "max_bad"):
            sections["data"].pop(key)
        sections["optim"].pop("non_finite_budget")
        return sections

    def numbers_digest(self) -> str:
        """Return the hex SHA-256 of `numbers()`.

        Two runs with equal digests, equal annotations and equal initial weights compute the same thing.
        """
        canonical = json.dumps(self.numbers(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
