"""What is trained on what, and how: the fields of the resource that become settings of the config document."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sam3ft_api import limits
from sam3ft_api.fields import (
    CategoryName,
    DurationText,
    ExactWhole,
    Flag,
    Metric,
    ModelAddress,
    Number,
    Part,
    Phrase,
    Precision,
    StoreAddress,
)
from sam3ft_api.section import VALIDATIONS, Rule, SpecSection, unique, without_nulls

_SET = {"x-kubernetes-list-type": "set"}
_PHRASE_KEYS = {
    VALIDATIONS: [
        {
            "rule": "self.all(name, name.size() > 0 && name.size() <= 256 && name != '_target_' && "
            r"name.matches(r'^([^$\x00-\x1f\x7f]|[$]+[^${\x00-\x1f\x7f])*[$]*$'))",
            "message": "a category name has 1 to 256 characters, no control characters and no ${, and is not _target_",
        }
    ]
}


def _no_target(name: str) -> str:
    if name == "_target_":
        raise ValueError("_target_ is refused everywhere; nothing is instantiated from a spec")
    return name


def _plain_data(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what a nested document must not hold: interpolation, targets, private keys, depth, size."""
    _check_plain(value, ())
    if len(json.dumps(value, default=str).encode()) > limits.MAX_CONFIG_BYTES:
        raise ValueError(f"config is larger than {limits.MAX_CONFIG_BYTES} bytes")
    return value


def _check_plain(value: Any, path: tuple[str, ...]) -> None:
    where = ".".join(path) or "config"
    if len(path) > limits.MAX_DEPTH:
        raise ValueError(f"{where} is nested deeper than {limits.MAX_DEPTH} levels")
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"{where} contains ${{; nothing is interpolated, write the value itself")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or "${" in key or key.startswith("_"):
                raise ValueError(f"{where} has the key {key!r}; keys that begin with _ or contain ${{ are refused")
            _check_plain(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, (*path, str(index)))


class ModelSpec(SpecSection):
    """The weights that training starts from."""

    uri: Annotated[
        ModelAddress,
        Field(
            description="Folder in Hugging Face form (config.json, *.safetensors, tokenizer): s3://, gs:// or az:// "
            "with bucket and prefix, hf://owner/name@revision, a folder, or preset:NAME for random weights (trials)."
        ),
    ]


class SplitSpec(SpecSection):
    """Addresses of one split whose layout differs from `SPLIT/_annotations.coco.json` with its images beside."""

    images: Annotated[
        StoreAddress | None, Field(description="Folder of the images. Default: beside the annotations, or images/.")
    ] = None
    annotations: Annotated[
        StoreAddress | None, Field(description="COCO JSON file. Default: SPLIT/_annotations.coco.json under data.uri.")
    ] = None


_PhraseList = Annotated[tuple[Phrase, ...], Field(min_length=1, max_length=limits.MAX_PHRASES_PER_CATEGORY)]
PhraseMap = Annotated[
    dict[Annotated[CategoryName, AfterValidator(_no_target)], _PhraseList],
    BeforeValidator(without_nulls),
    Field(max_length=limits.MAX_PHRASED_CATEGORIES, json_schema_extra=_PHRASE_KEYS),
]
"""Category name to its phrases."""
NestedSettings = Annotated[
    dict[str, Any],
    AfterValidator(_plain_data),
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
]
"""Settings in the form of the config document, plain data only."""


class DataSpec(SpecSection):
    """The data set, read in place: plain COCO JSON with JPEG or PNG images."""

    RULES: ClassVar = (
        Rule(
            cel="has(self.uri) || (has(self.train) && has(self.train.images) && has(self.train.annotations))",
            holds=lambda data: (
                data.uri is not None
                or (data.train is not None and None not in (data.train.images, data.train.annotations))
            ),
            message="data needs uri, or train.images and train.annotations",
        ),
        Rule(
            cel="!(has(self.exhaustiveCategories) && has(self.exhaustive) && self.exhaustive)",
            holds=lambda data: not (data.exhaustive_categories is not None and data.exhaustive),
            message="exhaustive: true says that every category is annotated completely; "
            "leave it out beside exhaustiveCategories",
        ),
    )

    uri: Annotated[
        StoreAddress | None,
        Field(
            description="Folder with train/, and optionally valid/ and test/, each with _annotations.coco.json. "
            "Without valid/ a seeded tenth of train selects the best checkpoint; test is scored once, at the end."
        ),
    ] = None
    on_change: Annotated[
        Literal["refuse", "restartEpoch"],
        Field(description="What to do on resume when the annotations have changed since the newest commit."),
    ] = "refuse"
    train: Annotated[SplitSpec | None, Field(description="Addresses of the training split, if they differ.")] = None
    valid: Annotated[SplitSpec | None, Field(description="Addresses of the selection split, if they differ.")] = None
    test: Annotated[SplitSpec | None, Field(description="Addresses of the test split, if they differ.")] = None
    phrases: PhraseMap = Field(
        default_factory=dict,
        description="Category name to the phrases that describe it, a list. Default: the category's name.",
    )
    max_phrases_per_image: Annotated[
        ExactWhole,
        Field(
            ge=1,
            le=limits.MAX_PHRASES_PER_IMAGE,
            description="Phrases asked of one image: all categories up to here; beyond, all present ones and a seeded "
            "sample of absent ones (negatives).",
        ),
    ] = 16
    exhaustive: Annotated[
        Flag | None,
        Field(
            description="Every category is annotated in every image, so that an absent box is a negative. Default: "
            "true, unless exhaustiveCategories is given."
        ),
    ] = None
    exhaustive_categories: Annotated[
        Annotated[tuple[CategoryName, ...], AfterValidator(unique)] | None,
        Field(
            max_length=limits.MAX_EXHAUSTIVE,
            description="The only categories that are annotated in every image; an absent box of another is no "
            "negative.",
            json_schema_extra=_SET,
        ),
    ] = None


class TrainingSpec(SpecSection):
    """The usual knobs; every other setting goes into `config`."""

    RULES: ClassVar = (
        Rule(
            cel="!(has(self.epochs) && has(self.maxSteps))",
            holds=lambda training: training.epochs is None or training.max_steps is None,
            message="epochs and maxSteps exclude each other; keep one (maxDuration can stand beside either)",
        ),
    )

    epochs: Annotated[
        Number | None,
        Field(
            ge=0.001,
            le=limits.MAX_EPOCHS,
            description="Passes over the training images. Default: 20, unless maxSteps or maxDuration is given.",
        ),
    ] = None
    max_steps: Annotated[ExactWhole | None, Field(ge=1, le=limits.MAX_STEP, description="Optimizer steps in all.")] = (
        None
    )
    max_duration: Annotated[
        DurationText | None,
        Field(
            description="Wall-clock budget of training, as 90s, 30m, 12h or 3d; the cool-down of the learning rate "
            "ends within it. Beside epochs or maxSteps, whichever comes first ends the run."
        ),
    ] = None
    global_batch_size: Annotated[
        ExactWhole,
        Field(
            ge=1,
            le=limits.MAX_GLOBAL_BATCH,
            description="Images per optimizer step, the same for any number of workers; at least one for each process "
            "of workers.maxNodes nodes.",
        ),
    ] = 2
    learning_rate: Annotated[
        Number,
        Field(
            ge=1e-9,
            le=1,
            description="Peak rate of everything but the backbones; vision follows with 0.3125 of it, text with "
            "0.0625, upstream's proportions.",
        ),
    ] = 8e-5
    precision: Annotated[
        Precision, Field(description="Arithmetic of the forward pass: bf16; fp16 with loss scaling (T4, V100); fp32.")
    ] = "bf16"
    resolution: Annotated[
        ExactWhole,
        Field(ge=28, le=2016, multiple_of=14, description="Side of the square model input, px, in steps of 14."),
    ] = 1008
    seed: Annotated[
        ExactWhole,
        Field(ge=0, le=2**53 - 1, description="Seed of the order, the augmentation, the hold-out and dropout."),
    ] = 123
    freeze: Annotated[
        tuple[Part, ...],
        AfterValidator(unique),
        Field(
            max_length=7,
            description="Parts that are not trained; freezing text lets its phrases be cached and saves memory.",
            json_schema_extra=_SET,
        ),
    ] = ()
    config: NestedSettings = Field(
        default_factory=dict,
        description="Any other setting of the config document, nested and in snake_case, for example "
        "{optim: {clip_norm: 0.5}}; merged over the typed knobs and checked before anything starts.",
    )


class CheckpointSpec(SpecSection):
    """Where and when the state is committed."""

    uri: Annotated[
        StoreAddress | None,
        Field(
            description="Prefix that belongs to this run alone. Required on Kubernetes and SLURM; `sam3ft run` on one "
            "machine keeps it in the run's folder by default."
        ),
    ] = None
    every_steps: Annotated[
        ExactWhole, Field(ge=1, le=limits.MAX_STEP, description="Optimizer steps between commits.")
    ] = 200
    every_seconds: Annotated[
        Number, Field(ge=1, le=limits.MAX_SECONDS, description="Seconds between commits, whichever comes first.")
    ] = 600
    keep_last: Annotated[ExactWhole, Field(ge=1, le=limits.MAX_KEPT, description="Newest commits kept.")] = 3
    keep_best: Annotated[ExactWhole, Field(ge=0, le=limits.MAX_KEPT, description="Best commits kept besides.")] = 1
    resume: Annotated[
        Literal["auto", "never", "must"],
        Field(description="auto: from the newest commit if there is one; never: refuse a used prefix; must: need one."),
    ] = "auto"
    adopt: Annotated[
        Flag,
        Field(description="Take over a prefix that another resource owns, or that was written with other settings."),
    ] = False
    allow_unfenced: Annotated[
        Flag,
        Field(
            description="Accept a store that cannot create objects conditionally; two incarnations of the run could "
            "then overwrite each other."
        ),
    ] = False


class EarlyStoppingSpec(SpecSection):
    """When to end a run that no longer improves."""

    patience: Annotated[ExactWhole, Field(ge=1, le=10_000, description="Evaluations without a better value.")]
    min_delta: Annotated[
        Number, Field(ge=0, le=1, description="Smallest change of the metric (0 to 1) that counts as better.")
    ] = 0.0


class EvaluationSpec(SpecSection):
    """What is scored, when, and what selects."""

    every_epochs: Annotated[
        Number, Field(ge=0.001, le=limits.MAX_EPOCHS, description="Epochs between evaluations on the selection split.")
    ] = 1
    metric: Annotated[
        Metric, Field(description="Value that selects the best checkpoint; segm_* need task segmentation.")
    ] = "bbox_AP"
    early_stopping: Annotated[
        EarlyStoppingSpec | None, Field(description="End the run when the metric no longer improves. Default: never.")
    ] = None
    baseline: Annotated[Flag, Field(description="Score the untouched model first, for comparison.")] = True


class ExportSpec(SpecSection):
    """The model that is handed back."""

    uri: Annotated[
        StoreAddress | None, Field(description="Folder to write. Default: export/ under the checkpoint prefix.")
    ] = None
    formats: Annotated[
        tuple[Literal["transformers"], ...],
        AfterValidator(unique),
        Field(
            min_length=1,
            max_length=1,
            description="transformers: a folder for Sam3Model.from_pretrained.",
            json_schema_extra=_SET,
        ),
    ] = ("transformers",)
