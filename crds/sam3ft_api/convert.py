"""From the resource to the config document: typed knobs first, `training.config` merged over them, then one validation.

The document is the same whatever the backend; the backend decides only which addresses its workers can reach.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError

from sam3ft_api import limits
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.fields import BackendName, seconds
from sam3ft_api.problems import Problem, dotted, find_problems, invalid_config
from sam3ft_api.redact import shown
from sam3ft_api.spec import SAM3FineTune, SAM3FineTuneSpec, max_processes
from sam3ft_api.spec_training import SplitSpec
from sam3ft_api.training import IdentityConfig, TrainingConfig

DEFAULT_EPOCHS = 20
"""Passes over the data when the spec names neither epochs, steps nor a duration."""

TYPED_ONLY = {
    "identity": "it follows from metadata",
    "model.uri": "set spec.model.uri",
    "data.uri": "set spec.data.uri",
    "data.train": "set spec.data.train",
    "data.valid": "set spec.data.valid",
    "data.test": "set spec.data.test",
    "checkpoint.uri": "set spec.checkpoint.uri",
    "checkpoint.adopt": "set spec.checkpoint.adopt",
    "checkpoint.allow_unfenced": "set spec.checkpoint.allowUnfenced",
    "export.uri": "set spec.export.uri",
    "storage": "set spec.storage.profile and spec.storage.dataProfile",
}
"""Settings that `training.config` must not hold, and where they belong: addresses, ownership, safety."""

Document = dict[str, Any]


def to_training_config(
    finetune: SAM3FineTune,
    *,
    backend: BackendName,
    uid: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """Return the config document that the workers of a run read.

    Later values win: defaults, typed knobs of the spec, `spec.training.config`, `overrides`.

    Args:
        finetune: a validated resource.
        backend: where it will run; on kubernetes and slurm the checkpoint prefix is required, and on kubernetes every
            address is one that a pod can reach (a store, hf:// or preset:, no folder); on slurm folders are absolute.
        uid: identity of the run; None takes the resource's, or `local`.
        overrides: nested settings from the command line, in the form of `training.config`.

    Raises:
        InvalidConfig: a setting is unknown, out of range or out of place; the message names the dotted key.
    """
    spec = finetune.spec
    _check_addresses(spec, backend)
    document = _typed(spec)
    document["identity"] = IdentityConfig(
        name=finetune.metadata.name, uid=uid or finetune.metadata.uid or "local"
    ).model_dump()
    sources = {"spec.training.config": spec.training.config, "overrides": dict(overrides or {})}
    for source, settings in sources.items():
        _check_settings(settings, source)
        _merge(document, settings)
    try:
        config = TrainingConfig.model_validate(document)
    except ValidationError as error:
        raise invalid_config(
            [_with_origin(problem, sources) for problem in find_problems(error, TrainingConfig)],
            source=f"{finetune.metadata.name}: settings of the run",
        ) from None
    if backend != "local" and config.scratch.train_batch_size < max_processes(spec):
        raise InvalidConfig(
            f"scratch.train_batch_size {config.scratch.train_batch_size} is smaller than the {max_processes(spec)} "
            "processes of workers.maxNodes nodes; raise it, or lower workers.maxNodes or workers.gpusPerNode"
        )
    return config


def _typed(spec: SAM3FineTuneSpec) -> Document:
    """Return the typed fields of the spec as settings."""
    training, checkpoint, evaluation = spec.training, spec.checkpoint, spec.evaluation
    stopping = evaluation.early_stopping
    return {
        "scratch": {
            "enable_segmentation": spec.task == "segmentation",
            "resolution": training.resolution,
            "train_batch_size": training.global_batch_size,
            "seed_value": training.seed,
            "precision": training.precision,
            **_length(spec),
        },
        "model": {"uri": spec.model.uri, "freeze": training.freeze},
        "data": _data(spec),
        "optim": {"lr": training.learning_rate},
        "checkpoint": checkpoint.model_dump(by_alias=False),
        "evaluation": {
            "every_epochs": evaluation.every_epochs,
            "metric": evaluation.metric,
            "baseline": evaluation.baseline,
            "patience": stopping.patience if stopping else None,
            "min_delta": stopping.min_delta if stopping else 0.0,
        },
        "export": spec.export.model_dump(by_alias=False),
        "storage": {"profile": spec.storage.profile, "data_profile": spec.storage.data_profile},
    }


def _length(spec: SAM3FineTuneSpec) -> Document:
    """Return how long to train; with a duration alone, the duration decides."""
    training = spec.training
    limit: Document = {"max_steps": training.max_steps}
    if training.max_duration is not None:
        limit["max_duration_s"] = float(seconds(training.max_duration))
    if training.epochs is not None:
        limit["max_data_epochs"] = training.epochs
    elif training.max_steps is None:
        limit["max_data_epochs"] = DEFAULT_EPOCHS if training.max_duration is None else limits.MAX_EPOCHS
    return limit


def _data(spec: SAM3FineTuneSpec) -> Document:
    data = spec.data
    exhaustive = data.exhaustive_categories if data.exhaustive_categories is not None else data.exhaustive is not False
    return {
        "uri": data.uri,
        "train": _split(data.train),
        "valid": _split(data.valid),
        "test": _split(data.test),
        "on_change": data.on_change,
        "phrases": data.phrases,
        "max_phrases_per_image": data.max_phrases_per_image,
        "exhaustive": exhaustive,
    }


def _split(split: SplitSpec | None) -> Document:
    return split.model_dump(by_alias=False) if split is not None else {}


def _addresses(spec: SAM3FineTuneSpec) -> Iterator[tuple[str, str | None]]:
    yield "spec.model.uri", spec.model.uri
    yield "spec.data.uri", spec.data.uri
    for name in ("train", "valid", "test"):
        split: SplitSpec | None = getattr(spec.data, name)
        if split is not None:
            yield f"spec.data.{name}.images", split.images
            yield f"spec.data.{name}.annotations", split.annotations
    yield "spec.checkpoint.uri", spec.checkpoint.uri
    yield "spec.export.uri", spec.export.uri


def _check_addresses(spec: SAM3FineTuneSpec, backend: BackendName) -> None:
    if backend != "local" and spec.checkpoint.uri is None:
        raise InvalidConfig(
            f"spec.checkpoint.uri is required on {backend}: a prefix that belongs to this run alone, as s3://runs/NAME"
        )
    if backend == "local":
        return
    for name, address in _addresses(spec):
        # Inside a data set that lies in a store, `images` and `annotations` may be relative to it.
        relative = name.startswith("spec.data.") and name != "spec.data.uri" and spec.data.uri is not None
        if address is None or "://" in address or address.startswith("preset:"):
            continue
        if backend == "slurm":
            if not relative and not address.startswith("/"):
                raise InvalidConfig(
                    f"{name}: {shown(address)} is a relative folder; on a SLURM site expected an absolute path that "
                    "all its nodes share, or s3://, gs:// or az:// with bucket and prefix"
                )
        elif not relative or address.startswith("/"):
            raise InvalidConfig(
                f"{name}: {shown(address)} is a folder, which no pod can see; "
                "expected s3://, gs:// or az:// with bucket and prefix"
            )


def _check_settings(settings: Mapping[str, Any], source: str) -> None:
    """Refuse settings out of place and keys that do not exist, with their dotted names."""
    problems = [
        Problem((), f"{source}.{key} is refused: {why} instead" if why.startswith("set") else f"{source}.{key}: {why}")
        for key, why in TYPED_ONLY.items()
        if _holds(settings, key.split("."))
    ]
    problems += [Problem((), text) for text in _unknown_keys(settings, TrainingConfig, source, ())]
    if problems:
        raise invalid_config(problems, source="settings")


def _holds(settings: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(settings, Mapping) or key not in settings:
            return False
        settings = settings[key]
    return True


def _unknown_keys(
    settings: Mapping[str, Any], model: type[BaseModel], source: str, path: tuple[str, ...]
) -> Iterator[str]:
    for key, value in settings.items():
        here = (*path, key)
        field = model.model_fields.get(key)
        if field is None:
            yield f"{source}.{dotted(here)} (value {shown(value)}) is no setting{_closest(dotted(here))}"
        elif isinstance(value, Mapping) and _is_section(field.annotation):
            yield from _unknown_keys(value, field.annotation, source, here)


def _closest(key: str) -> str:
    known = setting_names()
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:
        last = key.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean {close[0]}?" if close else "; docs/api.md lists all settings"


def setting_names(model: type[BaseModel] = TrainingConfig) -> tuple[str, ...]:
    """Return the dotted name of every setting of the config document, in its order."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            names += [f"{name}.{inner}" for inner in setting_names(field.annotation)]
        else:
            names.append(name)
    return tuple(names)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _merge(document: Document, settings: Mapping[str, Any]) -> None:
    """Put nested settings over the document; `data.phrases` and lists are replaced whole."""
    for key, value in settings.items():
        known = document.get(key)
        if isinstance(value, Mapping) and isinstance(known, dict) and key != "phrases":
            _merge(known, value)
        else:
            document[key] = dict(value) if isinstance(value, Mapping) else value


def _with_origin(problem: Problem, sources: Mapping[str, Mapping[str, Any]]) -> Problem:
    """Name the nested document that a wrong value came from, the last one that holds it."""
    keys = [part for part in problem.path if isinstance(part, str)]
    origins = [source for source, settings in sources.items() if keys and _holds(settings, keys)]
    return Problem((origins[-1], *problem.path), problem.text) if origins else problem
