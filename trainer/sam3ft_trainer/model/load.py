"""Model addresses to models: `preset:NAME`, `hf://org/name@revision`, or a folder in the published format.

Weights are copied into parameters that were allocated before (assigning mapped tensors changes their alignment, and
with it the last bits of results). Every key is accounted for; nothing is initialised silently.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Sam3Config, Sam3Model

from sam3ft_api.errors import InvalidConfig, ModelUnusable
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model import hub
from sam3ft_trainer.model.build import allocate, allocate_meta, set_resolution
from sam3ft_trainer.model.folder import FolderWeights, TensorDigest, read_config
from sam3ft_trainer.model.preset_sizes import PRESET_SCHEME
from sam3ft_trainer.model.presets import build_preset, preset_config
from sam3ft_trainer.model.text import Tokenizer, WeightSource, byte_tokenizer

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The account of a load.

    Attributes:
        num_loaded: tensors copied into the model.
        missing: tensors of the model that the folder lacks; a load with any is refused.
        unexpected: keys that are neither the detector's nor the tracker's; reported, not used.
        num_tracker_ignored: keys of a video model's tracker.
        stored_dtypes: number of tensors by the dtype they are stored in.
    """

    num_loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    num_tracker_ignored: int = 0
    stored_dtypes: tuple[tuple[str, int], ...] = ()

    def summary(self) -> str:
        """Return one line for the log."""
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.stored_dtypes)
        parts = [f"{self.num_loaded} tensors loaded" + (f" ({dtypes})" if dtypes else "")]
        if self.num_tracker_ignored:
            parts.append(f"{self.num_tracker_ignored} of the video tracker ignored")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected ({', '.join(self.unexpected[:_SHOWN])})")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class PresetWeights:
    """Random weights, made again from the seed."""

    config: Sam3Config
    seed: int

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors of a model built again; needs the whole model's memory while it runs."""
        state = build_preset(self.config, seed=self.seed).state_dict()
        for name in names:
            yield name, state[name]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to train.

    Attributes:
        sam3: the model, on the asked device and dtype.
        tokenizer: of the same folder, or the byte tokenizer of presets.
        origin: exact address: folder, Hub address with commit, or preset with its seed.
        digest: hex SHA-256 of all initial weights as stored, by name; "" on the meta device.
        report: the account of keys.
        source: where the initial weights can be read again.
    """

    sam3: Sam3Model
    tokenizer: Tokenizer
    origin: str
    digest: str
    report: LoadReport
    source: WeightSource


def load_model(
    uri: str,
    config: ModelConfig,
    *,
    resolution: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    seed: int,
    origin: str = "",
) -> LoadedModel:
    """Load the model at `uri` for square inputs of `resolution` pixels.

    Args:
        uri: `preset:NAME`, `hf://ORG/NAME[@REVISION]`, a folder, or `file://` and a folder.
        config: `vit_layer_norm_eps` replaces the folder's value when it is set.
        resolution: any multiple of the patch size (14); see `set_resolution`.
        device: "meta" gives shapes without weights, for presets.
        dtype: of the parameters.
        seed: of a preset's random weights; without effect on others.
        origin: address that the folder is a copy of, for reports; empty when `uri` itself is where it comes from.

    Raises:
        InvalidConfig: address or resolution is malformed.
        ModelUnusable: the folder is incomplete, of another kind, or not readable as safetensors.
        StorageUnavailable: the Hub cannot be reached.
    """
    if uri.startswith(PRESET_SCHEME):
        return _load_preset(uri.removeprefix(PRESET_SCHEME), config, resolution, torch.device(device), dtype, seed)
    if uri.startswith(hub.SCHEME):
        folder, address = hub.fetch(uri)
    else:
        folder = _folder(uri)
        address = str(folder.resolve())
    return _load_folder(folder, origin or address, config, resolution, torch.device(device), dtype)


def read_model_config(uri: str, config: ModelConfig, *, resolution: int) -> Sam3Config:
    """Return the architecture at `uri` without reading weights, for planning; raises as `load_model`."""
    if uri.startswith(PRESET_SCHEME):
        return _adapted(preset_config(uri.removeprefix(PRESET_SCHEME)), config, resolution)
    folder = hub.fetch(uri)[0] if uri.startswith(hub.SCHEME) else _folder(uri)
    return _adapted(read_config(folder), config, resolution)


def _folder(uri: str) -> Path:
    path = uri.removeprefix("file://")
    if "://" in path:
        raise InvalidConfig(
            f"model.uri {uri!r} has the scheme {path.split('://')[0]!r}; a model is read from this machine: "
            "allowed are a folder, file://FOLDER, hf://ORG/NAME@REVISION and preset:NAME"
        )
    return Path(path).expanduser()


def _adapted(sam3_config: Sam3Config, config: ModelConfig, resolution: int) -> Sam3Config:
    if config.vit_layer_norm_eps is not None:
        sam3_config.vision_config.backbone_config.layer_norm_eps = config.vit_layer_norm_eps
    return set_resolution(sam3_config, resolution)


def _load_preset(
    name: str, config: ModelConfig, resolution: int, device: torch.device, dtype: torch.dtype, seed: int
) -> LoadedModel:
    sam3_config = _adapted(preset_config(name), config, resolution)
    if device.type == "meta":
        sam3, digest = allocate_meta(sam3_config).to(dtype), ""
    else:
        sam3 = build_preset(sam3_config, seed=seed)
        digest = _state_digest(sam3)
        sam3 = sam3.to(device=device, dtype=dtype)
    report = LoadReport(num_loaded=len(sam3.state_dict()))
    origin = f"{PRESET_SCHEME}{name}?seed={seed}"
    return LoadedModel(sam3, Tokenizer(byte_tokenizer()), origin, digest, report, PresetWeights(sam3_config, seed))


def _state_digest(sam3: Sam3Model) -> str:
    digest = TensorDigest()
    for name, tensor in sorted(sam3.state_dict().items()):
        digest.add(name, tensor)
    return digest.hex()


def _load_folder(
    folder: Path, origin: str, config: ModelConfig, resolution: int, device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    sam3_config = _adapted(read_config(folder), config, resolution)
    weights = FolderWeights.scan(folder)
    tokenizer = Tokenizer.from_folder(folder, vocabulary=sam3_config.text_config.vocab_size)
    sam3 = allocate(sam3_config)
    report, digest = _fill(sam3, weights)
    return LoadedModel(sam3.to(device=device, dtype=dtype), tokenizer, origin, digest, report, weights)


def inspect_model(uri: str, config: ModelConfig, *, resolution: int) -> tuple[str, Sam3Config]:
    """Return a line about the model and its architecture, having read no weight: configuration, keys and tokenizer.

    Raises:
        InvalidConfig, ModelUnusable, StorageUnavailable: as `load_model`, for everything that the headers show.
    """
    if uri.startswith(PRESET_SCHEME):
        return f"{uri}, random weights", _adapted(preset_config(uri.removeprefix(PRESET_SCHEME)), config, resolution)
    folder = hub.fetch(uri)[0] if uri.startswith(hub.SCHEME) else _folder(uri)
    sam3_config = _adapted(read_config(folder), config, resolution)
    weights = FolderWeights.scan(folder)
    Tokenizer.from_folder(folder, vocabulary=sam3_config.text_config.vocab_size)
    state = allocate_meta(sam3_config).state_dict()
    _refuse_missing(state, weights)
    ignored = f", {weights.num_tracker} of the video tracker ignored" if weights.num_tracker else ""
    unexpected = len(set(weights.tensors) - set(state))
    ignored += f", {unexpected} unexpected" if unexpected else ""
    return f"{uri}, {len(state)} tensors{ignored}", sam3_config


def _refuse_missing(state: Mapping[str, Tensor], weights: FolderWeights) -> None:
    missing = tuple(sorted(set(state) - set(weights.tensors)))
    if missing:
        raise ModelUnusable(
            f"model folder {weights.folder} lacks {len(missing)} of the model's {len(state)} tensors: "
            f"{', '.join(missing[:_SHOWN])}{', ...' if len(missing) > _SHOWN else ''}; it is incomplete or of another "
            "architecture, and sam3ft does not train half-initialised models"
        )


@torch.no_grad()
def _fill(sam3: Sam3Model, weights: FolderWeights) -> tuple[LoadReport, str]:
    """Copy every tensor of the folder into the model, and return the account and the digest."""
    state = sam3.state_dict()
    _refuse_missing(state, weights)
    dtypes: dict[str, int] = {}
    digest = TensorDigest()
    for name, stored in weights.read(sorted(state)):
        if stored.shape != state[name].shape:
            raise ModelUnusable(
                f"tensor {name} in {weights.folder} has the shape {tuple(stored.shape)}, "
                f"config.json says {tuple(state[name].shape)}"
            )
        if not stored.is_floating_point():
            raise ModelUnusable(
                f"tensor {name} in {weights.folder} is stored as {stored.dtype}; "
                "quantised weights cannot be trained, use the float version"
            )
        state[name].copy_(stored)
        digest.add(name, stored)
        dtype = str(stored.dtype).removeprefix("torch.")
        dtypes[dtype] = dtypes.get(dtype, 0) + 1
    report = LoadReport(
        num_loaded=len(state),
        unexpected=tuple(sorted(set(weights.tensors) - set(state))),
        num_tracker_ignored=weights.num_tracker,
        stored_dtypes=tuple(sorted(dtypes.items())),
    )
    return report, digest.hex()
