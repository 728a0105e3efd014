"""From a user's file to a plan for this machine: pure but for reading the file; nothing is started or written."""

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sam3ft_api.convert import to_training_config
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.fields import STORE
from sam3ft_api.plan import JobPlan, RestartBudget
from sam3ft_api.problems import find_problems, invalid_config
from sam3ft_api.spec import SAM3FineTune, SAM3FineTuneSpec
from sam3ft_api.training import CheckpointConfig, ExportConfig, IdentityConfig, SplitConfig, TrainingConfig
from sam3ft_api.worker import ENV_CACHE_DIR
from sam3ft_api.yaml import load_finetune, read_yaml
from sam3ft_launch.assignments import assign
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.local.devices import choose_processes, num_gpus

AnyUriSection = TypeVar("AnyUriSection", CheckpointConfig, ExportConfig)

_OF_A_FOLDER = "local-"
"""How the identity of a run begins that was made for its folder."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A validated run, not yet tied to a folder.

    Attributes:
        name: of the run.
        source: text of the user's file, with the assignments as comments.
        config: the config document, addresses absolute.
        finetune: the validated file; None when the run was composed from Hydra overrides.
    """

    name: str
    source: str
    config: TrainingConfig
    finetune: SAM3FineTune | None = None


def load(path: Path, *, assignments: Sequence[str]) -> Prepared:
    """Read and validate a user's file for a run on this machine.

    Args:
        path: the file; relative folders in it are relative to where it lies.
        assignments: `PATH=VALUE` changes, made before the validation.

    Raises:
        InvalidConfig: the file or an assignment is wrong; every problem is named with its line, path and value.
    """
    finetune, source = load_resource(path, assignments=assignments)
    config = to_training_config(finetune, backend="local")
    return Prepared(
        finetune.metadata.name, source, with_absolute_addresses(config, base=path.absolute().parent), finetune
    )


def load_resource(path: Path, *, assignments: Sequence[str]) -> tuple[SAM3FineTune, str]:
    """Return the resource that a user's file holds, and the file's text with the assignments as comments.

    Args:
        path: the file.
        assignments: `PATH=VALUE` changes, made before the validation.

    Raises:
        InvalidConfig: the file or an assignment is wrong; every problem is named with its line, path and value.
    """
    if not assignments:
        return load_finetune(path), path.read_text(encoding="utf-8")
    source = _read(path)
    document = read_yaml(source, name=str(path))
    if not isinstance(document.data, dict):
        raise InvalidConfig(f"{path}: holds no SAM3FineTune; see docs/yaml.md for an example")
    data = assign(document.data, assignments)
    try:
        finetune = SAM3FineTune.model_validate(data)
    except ValidationError as error:
        problems = find_problems(error, SAM3FineTune)
        raise invalid_config(problems, source=f"{path} with --set", place=document.place) from None
    return finetune, "".join(f"# --set {assignment}\n" for assignment in assignments) + source


def prepare_config(document: dict[str, Any]) -> Prepared:
    """Return a run from a config document that is complete; relative folders are relative to the current one.

    Raises:
        InvalidConfig: the document is not valid.
    """
    try:
        config = TrainingConfig.model_validate(document)
    except ValidationError as error:
        raise invalid_config(find_problems(error, TrainingConfig), source="config document") from None
    return Prepared(config.identity.name, "", with_absolute_addresses(config, base=Path.cwd()))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path}: cannot be read: {error}; name a YAML file") from None


def with_absolute_addresses(config: TrainingConfig, *, base: Path) -> TrainingConfig:
    """Return the config with every folder made absolute.

    Relative ones start at `base`, images and annotations of a split at `data.uri` where there is one, `~` at the home
    folder; addresses of stores, of the hub and of presets stay as they are.
    """
    uri = _absolute(config.data.uri, base)
    inside = base if uri is None else None if "://" in uri else Path(uri)

    def split(addresses: SplitConfig) -> SplitConfig:
        if inside is None:
            return addresses
        return SplitConfig(
            images=_absolute(addresses.images, inside), annotations=_absolute(addresses.annotations, inside)
        )

    data = config.data.model_copy(
        update={
            "uri": uri,
            "train": split(config.data.train),
            "valid": split(config.data.valid),
            "test": split(config.data.test),
        }
    )
    return config.model_copy(
        update={
            "data": data,
            "model": config.model.model_copy(update={"uri": _absolute(config.model.uri, base)}),
            "checkpoint": config.checkpoint.model_copy(update={"uri": _absolute(config.checkpoint.uri, base)}),
            "export": config.export.model_copy(update={"uri": _absolute(config.export.uri, base)}),
        }
    )


def _absolute(address: str | None, base: Path) -> str | None:
    if address is None or "://" in address or address.startswith("preset:"):
        return address
    return os.path.normpath(base / Path(address).expanduser())


def plan_here(prepared: Prepared, *, folder: RunDir, uid: str, attempt: int, nproc: int | None) -> JobPlan:
    """Return the plan of one attempt on this machine.

    Args:
        prepared: what was validated.
        folder: where the run lives; checkpoints and model go there unless the file says otherwise.
        uid: identity of the folder's run, recorded as the owner of the checkpoint prefix.
        attempt: its number.
        nproc: worker processes; None takes the devices of this machine.

    Raises:
        InvalidConfig: more processes than images in the global batch.
    """
    spec = prepared.finetune.spec if prepared.finetune else None
    gpus = num_gpus(os.environ)
    processes = choose_processes(
        asked=nproc, gpus_per_node=spec.workers.gpus_per_node if spec else gpus, gpus_here=gpus
    )
    batch = prepared.config.scratch.train_batch_size
    if processes > batch:
        raise InvalidConfig(
            f"{processes} processes cannot share a global batch of {batch} images; "
            f"set --nproc to 1..{batch}, or raise training.globalBatchSize"
        )
    config = with_default_uris(prepared.config, folder)
    config = config.model_copy(update={"identity": IdentityConfig(name=prepared.name, uid=uid)})
    return JobPlan(
        name=prepared.name,
        uid=uid,
        attempt=attempt,
        backend="local",
        config=config,
        source=prepared.source,
        processes_per_node=processes,
        gpus_per_node=min(processes, gpus),
        env=cache_of_this_machine(config, os.environ),
        **limits_of(spec),
    )


def cache_of_this_machine(config: TrainingConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Return where model, images and newest commit of a bucket are kept; nothing for a run that uses folders alone.

    A place of the user's choice, also none (an empty variable), stands in the environment already.
    """
    splits = (config.data.train, config.data.valid, config.data.test)
    addresses = [config.model.uri, config.data.uri, config.checkpoint.uri, *(split.annotations for split in splits)]
    addresses += [split.images for split in splits]
    if ENV_CACHE_DIR in environ or not any(address and re.match(STORE, address) for address in addresses):
        return {}
    cache = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {ENV_CACHE_DIR: str(Path(cache) / "sam3ft" / "node")}


def with_default_uris(config: TrainingConfig, folder: RunDir) -> TrainingConfig:
    """Return the config with checkpoints and model in the run folder, where it names no other place for them."""
    return config.model_copy(
        update={
            "checkpoint": _with_default_uri(config.checkpoint, folder.checkpoints),
            "export": _with_default_uri(config.export, folder.model),
        }
    )


def _with_default_uri(section: AnyUriSection, folder: Path) -> AnyUriSection:
    return section if section.uri else section.model_copy(update={"uri": str(folder)})


def limits_of(spec: SAM3FineTuneSpec | None) -> dict[str, Any]:
    """Return the plan's times and budgets as the file has them; its defaults when there is no file."""
    if spec is None:
        return {}
    policy = spec.failure_policy
    return {
        "grace_s": float(spec.workers.termination_grace_period_seconds),
        "deadline_s": spec.active_deadline_seconds,
        "warm_spares": spec.workers.warm_spares,
        "budget": RestartBudget(
            max_restarts=policy.max_restarts,
            window_s=policy.window_seconds,
            max_without_progress=policy.max_without_progress,
        ),
    }


def new_uid() -> str:
    """Return a fresh identity for a run folder."""
    return f"{_OF_A_FOLDER}{uuid.uuid4().hex}"


def is_of_a_folder(uid: str) -> bool:
    """Tell whether an identity was made for a run folder; a resource of a cluster has another."""
    return uid.startswith(_OF_A_FOLDER)
