"""The config document: exactly what the trainer reads, and the only place where such a setting exists.

Sections `scratch`, `model`, `data`, `augment`, `loss` and `optim` change the numbers and make up the digest that a
checkpoint prefix records; `runtime`, `checkpoint`, `evaluation`, `export` and `identity` may differ between attempts.
Upstream's names are kept where upstream has a setting (`scratch.enable_segmentation`, `scratch.resolution`, ...).
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Phrase = Annotated[str, Field(min_length=1, max_length=256)]
CategoryName = Annotated[str, Field(min_length=1, max_length=256)]
Address = Annotated[str, Field(min_length=1, max_length=1024)]
Task = Literal["detection", "segmentation"]
Part = Literal["vision", "text", "neck", "geometry", "encoder", "decoder", "mask"]
"""Names of the model's parts, for freezing and activation checkpointing. `neck` is the vision encoder's FPN."""
Precision = Literal["bf16", "fp16", "fp32"]


class Section(BaseModel):
    """A closed group of settings: unknown keys are errors, values cannot be changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class ScratchConfig(Section):
    """The knobs most runs touch, under upstream's names."""

    enable_segmentation: bool = False
    resolution: Annotated[
        int,
        Field(
            ge=28, le=2016, description="Side of the square model input in pixels, a multiple of the patch size (14)."
        ),
    ] = 1008
    train_batch_size: Annotated[
        int, Field(ge=1, le=65536, description="Images per optimizer step over all processes together.")
    ] = 2
    max_data_epochs: Annotated[float, Field(gt=0, le=100_000, description="Passes over the training images.")] = 20
    max_steps: Annotated[int | None, Field(ge=1, description="Optimizer steps; overrides max_data_epochs.")] = None
    max_duration_s: Annotated[
        float | None,
        Field(gt=0, description="Wall-clock budget of training, s; the cool-down starts in time to end within it."),
    ] = None
    seed_value: Annotated[int, Field(ge=0, lt=2**63)] = 123
    precision: Precision = "bf16"


class ModelConfig(Section):
    """Where the weights come from, and how the model is run in training."""

    uri: Address = "preset:tiny"
    freeze: tuple[Part, ...] = ()
    geometry_cls: Annotated[
        bool, Field(description="Append the geometry CLS token to the text tokens, as upstream.")
    ] = True
    o2m: Annotated[bool, Field(description="One-to-many (DAC) queries in training.")] = True
    dropout: Annotated[float, Field(ge=0, lt=1, description="Residual and FFN dropout of DETR and geometry parts.")] = (
        0.1
    )
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    drop_path: Annotated[
        float, Field(ge=0, lt=1, description="Stochastic depth of the last ViT block; linear from 0.")
    ] = 0.1
    vit_layer_norm_eps: Annotated[float | None, Field(gt=0, description="None keeps the folder's value.")] = None


class SplitConfig(Section):
    """Addresses of one split when the folder layout differs from `SPLIT/_annotations.coco.json`."""

    images: Address | None = None
    annotations: Address | None = None


class BoundsConfig(Section):
    """Upstream's size and count filters; what they drop is counted and shown."""

    min_area: Annotated[
        float, Field(ge=0, le=1, description="Smallest scaled object area as a fraction, trainer.md 7.2.")
    ] = 1e-6
    max_objects_per_phrase: Annotated[
        int, Field(ge=1, le=100_000, description="A phrase with more objects in an image is dropped.")
    ] = 200


class FewShotConfig(Section):
    """A seeded subset with at least `shots` annotated images for each category."""

    shots: Annotated[int, Field(ge=1, le=100_000)]
    seed: Annotated[int, Field(ge=0)] = 0


class DataConfig(Section):
    """What is trained on, and under which phrases."""

    uri: Address | None = None
    train: SplitConfig = SplitConfig()
    valid: SplitConfig = SplitConfig()
    test: SplitConfig = SplitConfig()
    on_change: Literal["refuse", "restartEpoch"] = "refuse"
    phrases: dict[CategoryName, tuple[Phrase, ...]] = {}
    annotation_phrases: Annotated[
        bool, Field(description="Use an annotation's own noun phrase (`noun_phrase` or `phrase`) where it has one.")
    ] = True
    max_phrases_per_image: Annotated[int, Field(ge=1, le=10_000)] = 16
    negatives: Annotated[bool, Field(description="Ask for categories that are absent from an image.")] = True
    exhaustive: Annotated[
        bool | tuple[CategoryName, ...],
        Field(description="Categories annotated completely; an absent box of another one is no negative."),
    ] = True
    ignore_empty_parents: Annotated[
        bool,
        Field(
            description="Leave out categories without annotations that others name as supercategory (Roboflow's id 0)."
        ),
    ] = True
    holdout: Annotated[
        float, Field(gt=0, lt=1, description="Share of train that selects when there is no valid split.")
    ] = 0.1
    few_shot: FewShotConfig | None = None
    bounds: BoundsConfig = BoundsConfig()
    max_bad: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of unreadable images and annotations that fails the run; one is always allowed.",
        ),
    ] = 0.001


class AugmentConfig(Section):
    """Train-time transforms. The default is upstream's: random square resize, padding at a random place."""

    resize_and_pad: Annotated[bool, Field(description="False resizes every image to the full resolution.")] = True
    min_scale: Annotated[
        float,
        Field(gt=0, le=1, description="Smallest drawn side as a share of the resolution; steps of 32 px at 1008."),
    ] = 480 / 1008
    horizontal_flip: Annotated[float, Field(ge=0, le=1, description="Probability.")] = 0.0
    vertical_flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    quarter_turns: bool = False
    crop: Annotated[float, Field(ge=0, le=1, description="Probability of a random crop before the resize.")] = 0.0
    crop_min_scale: Annotated[float, Field(gt=0, le=1, description="Smallest crop as a share of each side.")] = 0.5
    tiles: Annotated[
        int,
        Field(
            ge=1,
            le=16,
            description="Cut every training image into n x n tiles, one drawn per epoch, for small objects.",
        ),
    ] = 1
    color: Annotated[
        float, Field(ge=0, le=1, description="Strength of brightness, contrast and saturation jitter.")
    ] = 0.0


class LossWeights(Section):
    """Weights of the terms, upstream's values."""

    loss_bbox: float = 5.0
    loss_giou: float = 2.0
    loss_ce: float = 20.0
    presence_loss: float = 20.0
    loss_mask: float = 200.0
    loss_dice: float = 10.0
    loss_semantic_seg: float = 20.0
    loss_semantic_dice: float = 30.0


class LossConfig(Section):
    """Losses and matchers, upstream's values."""

    weights: LossWeights = LossWeights()
    pos_weight: Annotated[float, Field(gt=0)] = 10.0
    o2m_weight: Annotated[float, Field(ge=0)] = 2.0
    o2m_alpha: Annotated[float, Field(ge=0, le=1)] = 0.3
    o2m_threshold: Annotated[float, Field(ge=0, le=1)] = 0.4
    o2m_topk: Annotated[int, Field(ge=1)] = 4
    cost_class: Annotated[float, Field(ge=0)] = 2.0
    cost_bbox: Annotated[float, Field(ge=0)] = 5.0
    cost_giou: Annotated[float, Field(ge=0)] = 2.0
    mask_points: Annotated[
        int | None, Field(ge=16, description="Sample this many points per mask; None uses every pixel, as upstream.")
    ] = None
    mask_oversample_ratio: Annotated[float, Field(ge=1)] = 3.0
    mask_importance_ratio: Annotated[float, Field(ge=0, le=1)] = 0.75
    mask_chunk: Annotated[
        int, Field(ge=1, le=1024, description="Masks per checkpointed chunk; bounds memory, not the result.")
    ] = 8


class OptimConfig(Section):
    """AdamW, its three rates and the inverse-square-root schedule, upstream's values."""

    lr: Annotated[float, Field(gt=0, le=1, description="Rate of everything but the backbones.")] = 8e-5
    lr_vision_backbone: Annotated[
        float | None, Field(gt=0, le=1, description="None: lr x 0.3125, upstream's proportion.")
    ] = None
    lr_language_backbone: Annotated[
        float | None, Field(gt=0, le=1, description="None: lr x 0.0625, upstream's proportion.")
    ] = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    warmup: Annotated[int, Field(ge=0, description="Steps.")] = 20
    timescale: Annotated[int, Field(ge=1, description="Steps.")] = 20
    cooldown: Annotated[int, Field(ge=0, description="Steps.")] = 20
    clip_norm: Annotated[float | None, Field(gt=0, description="Global L2 norm; None does not clip.")] = 0.1
    ema_decay: Annotated[
        float | None, Field(gt=0, lt=1, description="None keeps no average; evaluated and exported when set.")
    ] = None
    non_finite_budget: Annotated[
        int, Field(ge=0, description="Skipped updates allowed within the last 1,000 steps.")
    ] = 20


class RuntimeConfig(Section):
    """How the work is laid out on the machine; nothing here changes which numbers are computed at dropout 0."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch: Annotated[
        int | None, Field(ge=1, description="Images per forward pass and process; None is found automatically.")
    ] = None
    activation_checkpointing: Annotated[
        Literal["auto", "none"] | tuple[Part, ...], Field(description="Parts recomputed in backward.")
    ] = "auto"
    threads: Annotated[
        int | None,
        Field(ge=1, le=1024, description="CPU threads per process; None shares the cores. Recorded in the commit."),
    ] = None
    decode_threads: Annotated[int | None, Field(ge=1, le=256)] = None
    prefetch_bytes: Annotated[int, Field(ge=1 << 20)] = 256 << 20
    compile: bool = False
    log_every: Annotated[int, Field(ge=1, description="Steps between log lines.")] = 10
    watchdog_s: Annotated[
        float,
        Field(
            gt=0, description="Seconds without a finished step after which stacks are saved and the run ends with 24."
        ),
    ] = 1800.0
    tensorboard: bool = True


class CheckpointConfig(Section):
    """Where and when the state is committed."""

    uri: Address | None = None
    every_steps: Annotated[int | None, Field(ge=1)] = 200
    every_seconds: Annotated[float | None, Field(gt=0)] = 600.0
    keep_last: Annotated[int, Field(ge=1, le=1000)] = 3
    keep_best: Annotated[int, Field(ge=0, le=1000)] = 1
    resume: Literal["auto", "never", "must"] = "auto"
    adopt: bool = False
    allow_unfenced: bool = False


class EvaluationConfig(Section):
    """What is scored, when, and what selects."""

    every_epochs: Annotated[float | None, Field(gt=0, description="None scores at the end only.")] = 1
    metric: Literal["bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "cgF1"] = "bbox_AP"
    patience: Annotated[
        int | None, Field(ge=1, description="Evaluations without a better value before the run stops early.")
    ] = None
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    baseline: Annotated[bool, Field(description="Score the untouched model first.")] = True
    max_dets: Annotated[int, Field(ge=1, le=10_000, description="Detections kept per image, over all categories.")] = (
        100
    )
    score_threshold: Annotated[
        float, Field(ge=0, le=1, description="Score from which a detection counts for cgF1 and pictures.")
    ] = 0.5
    batch_size: Annotated[int, Field(ge=1)] = 1


class ExportConfig(Section):
    """The model that is handed back."""

    uri: Address | None = None
    formats: Annotated[tuple[Literal["transformers"], ...], Field(min_length=1)] = ("transformers",)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class IdentityConfig(Section):
    """Who runs: recorded in the first claim of the checkpoint log."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "run"
    uid: Annotated[str, Field(min_length=1, max_length=128)] = "local"


class TrainingConfig(Section):
    """Everything the trainer reads, validated as a whole."""

    scratch: ScratchConfig = ScratchConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    identity: IdentityConfig = IdentityConfig()

    @model_validator(mode="after")
    def _mask_metric_needs_masks(self) -> Self:
        if self.evaluation.metric.startswith("segm") and not self.scratch.enable_segmentation:
            raise ValueError(
                f"evaluation.metric {self.evaluation.metric!r} needs masks, and scratch.enable_segmentation is false; "
                "choose bbox_AP, bbox_AP50 or cgF1, or train segmentation"
            )
        if self.scratch.resolution % 14:
            raise ValueError(
                f"scratch.resolution {self.scratch.resolution} is not a multiple of the patch size 14; "
                f"the nearest are {self.scratch.resolution // 14 * 14} and {(self.scratch.resolution // 14 + 1) * 14}"
            )
        return self

    @property
    def task(self) -> Task:
        """`segmentation` when masks are trained, else `detection`."""
        return "segmentation" if self.scratch.enable_segmentation else "detection"

    def numbers_digest(self) -> str:
        """Return the hex SHA-256 of every setting that changes the numbers.

        Two runs with equal digests, equal annotations and equal initial weights compute the same thing; addresses
        of data and weights are left out, because what they hold is digested by the trainer itself.
        """
        sections = self.model_dump(mode="json", include={"scratch", "model", "data", "augment", "loss", "optim"})
        sections["model"].pop("uri")
        for key in ("uri", "train", "valid", "test", "on_change", "max_bad"):
            sections["data"].pop(key)
        sections["optim"].pop("non_finite_budget")
        canonical = json.dumps(sections, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
