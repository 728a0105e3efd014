"""From the resource to the config document."""

from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.convert import setting_names, to_training_config
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.spec import API_VERSION, KIND, SAM3FineTune
from sam3ft_api.training import TrainingConfig
from sam3ft_api.yaml import load_finetune

SPECS = Path(__file__).parents[2] / "assets/specs"


def finetune(**spec: Any) -> SAM3FineTune:
    base = {
        "model": {"uri": "preset:tiny"}, "data": {"uri": "s3://d/x"}, "checkpoint": {"uri": "s3://runs/x"},
    }  # fmt: skip
    return SAM3FineTune.model_validate(
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "run", "uid": "u-1"}, "spec": base | spec}
    )


def config(**spec: Any) -> TrainingConfig:
    return to_training_config(finetune(**spec), backend="local")


def refusal(backend: Any = "local", overrides: Any = None, **spec: Any) -> str:
    with pytest.raises(InvalidConfig) as caught:
        to_training_config(finetune(**spec), backend=backend, overrides=overrides)
    assert ExitCode.INVALID_CONFIG == caught.value.code
    return str(caught.value)


def test_an_empty_spec_gives_the_trainers_own_defaults() -> None:
    got, default = config(checkpoint={}).model_dump(), TrainingConfig().model_dump()

    default["data"]["uri"] = "s3://d/x"
    default["identity"] = {"name": "run", "uid": "u-1"}
    assert default == got


def test_every_typed_field_arrives() -> None:
    got = to_training_config(load_finetune(SPECS / "full.yaml"), backend="slurm", uid="uid-7")

    assert ("segmentation", 504, 64, 12.5, 43_200.0, 7, "fp16") == (
        got.task, got.scratch.resolution, got.scratch.train_batch_size, got.scratch.max_data_epochs,
        got.scratch.max_duration_s, got.scratch.seed_value, got.scratch.precision,
    )  # fmt: skip
    assert ("hf://facebook/sam3@main", ("text", "geometry")) == (got.model.uri, got.model.freeze)
    assert ({"blood cell": ("red blood cell", "erythrocyte")}, 8, ("blood cell",), "restartEpoch") == (
        got.data.phrases, got.data.max_phrases_per_image, got.data.exhaustive, got.data.on_change,
    )  # fmt: skip
    assert ("s3://datasets/blood/train/images", "s3://datasets/blood/valid.json", "s3://datasets/blood/test") == (
        got.data.train.images, got.data.valid.annotations, got.data.test.images,
    )  # fmt: skip
    assert ("s3://runs/blood", 100, 300.5, 5, 2, "must", True, True) == tuple(got.checkpoint.model_dump().values())
    assert ("segm_AP", 0.5, 5, 0.001, False) == (
        got.evaluation.metric, got.evaluation.every_epochs, got.evaluation.patience, got.evaluation.min_delta,
        got.evaluation.baseline,
    )  # fmt: skip
    assert ("s3://models/blood", "blood-cells", "uid-7") == (got.export.uri, got.identity.name, got.identity.uid)
    assert (0.5, 0.999, 0.5) == (got.optim.clip_norm, got.optim.ema_decay, got.augment.horizontal_flip)


def test_the_learning_rate_scales_all_three_because_the_backbones_follow_it() -> None:
    got = config(training={"learningRate": 4e-5}).optim

    assert (4e-5, None, None) == (got.lr, got.lr_vision_backbone, got.lr_language_backbone)


@pytest.mark.parametrize(
    ("training", "epochs", "steps", "duration"),
    [
        ({}, 20, None, None),
        ({"epochs": 3}, 3, None, None),
        ({"maxSteps": 100}, 20, 100, None),
        ({"maxDuration": "90m"}, 100_000, None, 5400.0),
        ({"epochs": 3, "maxDuration": "3d"}, 3, None, 259_200.0),
        ({"maxSteps": 9, "maxDuration": "45s"}, 20, 9, 45.0),
    ],
)
def test_the_length_of_a_run_is_epochs_steps_or_a_duration(
    training: dict[str, Any], epochs: float, steps: int | None, duration: float | None
) -> None:
    got = config(training=training).scratch

    assert (epochs, steps, duration) == (got.max_data_epochs, got.max_steps, got.max_duration_s)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, True),
        ({"exhaustive": True}, True),
        ({"exhaustive": False}, False),
        ({"exhaustiveCategories": ["a"]}, ("a",)),
        ({"exhaustive": False, "exhaustiveCategories": []}, ()),
    ],
)
def test_exhaustive_categories_become_one_setting(data: dict[str, Any], expected: object) -> None:
    assert expected == config(data={"uri": "s3://d/x"} | data).data.exhaustive


def test_nested_settings_win_over_typed_ones_and_overrides_over_both() -> None:
    spec = finetune(
        training={"learningRate": 1e-5, "config": {"optim": {"lr": 2e-5, "warmup": 5}, "loss": {"o2m_topk": 2}}}
    )

    got = to_training_config(spec, backend="local", overrides={"optim": {"lr": 3e-5}})

    assert (3e-5, 5, 2) == (got.optim.lr, got.optim.warmup, got.loss.o2m_topk)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"optim": {"weight_decy": 0.1}},
            ["spec.training.config.optim.weight_decy", "value 0.1", "did you mean optim.weight_decay?"],
        ),
        ({"optimizer": {"lr": 1}}, ["spec.training.config.optimizer", "is no setting"]),
        ({"clip_norm": 1}, ["spec.training.config.clip_norm", "did you mean optim.clip_norm?"]),
        ({"optim": {"lr": "1e-5"}}, ["spec.training.config.optim.lr", "'1e-5'", "a number above 0 to 1"]),
        ({"optim": {"lr": True}}, ["spec.training.config.optim.lr", "true", "a number above 0 to 1"]),
        ({"optim": {"betas": [0.9]}}, ["spec.training.config.optim.betas"]),
        ({"scratch": {"resolution": 1000}}, ["spec.training.config.scratch", "1000", "nearest are 994 and 1008"]),
        ({"evaluation": {"metric": "segm_AP"}}, ["evaluation.metric 'segm_AP' needs masks"]),
        ({"data": {"few_shot": {"shots": 1, "sed": 2}}}, ["data.few_shot.sed", "unknown key", "did you mean seed?"]),
        ({"runtime": {"activation_checkpointing": "all"}}, ["runtime.activation_checkpointing", "'all'", "auto, none"]),
        ({"loss": 3}, ["spec.training.config.loss", "3", "a group with the keys weights"]),
        ({"checkpoint": {"uri": "s3://x/y"}}, ["checkpoint.uri is refused", "set spec.checkpoint.uri"]),
        ({"model": {"uri": "s3://x/y"}}, ["model.uri is refused", "set spec.model.uri"]),
        ({"identity": {"name": "other"}}, ["identity: it follows from metadata"]),
    ],
)  # fmt: skip
def test_a_wrong_nested_setting_is_named_by_its_dotted_key(settings: dict[str, Any], words: list[str]) -> None:
    message = refusal(training={"config": settings})

    assert [] == [word for word in words if word not in message], message


def test_a_wrong_override_is_named_as_one() -> None:
    message = refusal(overrides={"optim": {"lr": 5}}, training={"config": {"optim": {"warmup": 3}}})

    assert "overrides.optim.lr: 5 is not allowed" in message


@pytest.mark.parametrize("backend", ["kubernetes", "slurm"])
def test_away_from_this_machine_a_checkpoint_prefix_is_required(backend: str) -> None:
    assert "spec.checkpoint.uri is required" in refusal(backend, checkpoint={})


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"data": {"uri": "/data/blood"}}, "spec.data.uri"),
        ({"model": {"uri": "weights/sam3"}}, "spec.model.uri"),
        ({"checkpoint": {"uri": "runs"}}, "spec.checkpoint.uri"),
        ({"export": {"uri": "./out"}}, "spec.export.uri"),
        ({"data": {"uri": "s3://d/x", "train": {"images": "/images"}}}, "spec.data.train.images"),
    ],
)
def test_a_folder_is_refused_on_kubernetes_alone(spec: dict[str, Any], name: str) -> None:
    assert f"{name}: " in refusal("kubernetes", **spec)
    assert to_training_config(finetune(**spec), backend="local")


@pytest.mark.parametrize("uri", ["weights/sam3", "./weights"])
def test_a_folder_of_a_slurm_site_is_absolute(uri: str) -> None:
    assert "spec.model.uri: " in refusal("slurm", model={"uri": uri})
    spec = finetune(model={"uri": "/home/ada/sam3"}, data={"uri": "/data/x", "train": {"images": "pictures"}})
    assert "/home/ada/sam3" == to_training_config(spec, backend="slurm").model.uri


def test_folders_relative_to_a_store_are_fine_on_kubernetes() -> None:
    spec = finetune(data={"uri": "s3://d/x", "train": {"images": "pictures", "annotations": "train.json"}})

    assert "pictures" == to_training_config(spec, backend="kubernetes").data.train.images


def test_a_nested_batch_that_starves_processes_is_refused() -> None:
    spec = {"workers": {"gpusPerNode": 2}, "training": {"config": {"scratch": {"train_batch_size": 1}}}}

    assert "smaller than the 2 processes" in refusal("slurm", **spec)


def test_every_setting_can_be_given_in_its_nested_form() -> None:
    defaults = TrainingConfig().model_dump(mode="json")
    for name in setting_names():
        value: Any = defaults
        settings: Any = None
        for key in name.split("."):
            value = value[key]
        for key in reversed(name.split(".")):
            settings = {key: value if settings is None else settings}
        if name.startswith(("identity", "storage", "data.train", "data.valid", "data.test")) or name.endswith(
            ("uri", "adopt", "allow_unfenced")
        ):
            continue

        assert config(training={"config": settings})
