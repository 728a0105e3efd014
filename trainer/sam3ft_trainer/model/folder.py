"""Published model folders: which safetensors hold which tensor of `Sam3Model`, and what else they hold.

Two layouts exist: a plain `Sam3Model` (`model_type` sam3) and `Sam3VideoModel` (sam3_video), whose detector is the same
model under the prefix `detector_model.`, beside a tracker that image training neither reads nor changes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import Sam3Config

from sam3ft_api.errors import ModelUnusable

DETECTOR_PREFIX = "detector_model."
TRACKER_PREFIXES = ("tracker_model.", "tracker_neck.")
INDEX = "model.safetensors.index.json"
"""Names the shards of a model and what lies in each."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ModelUnusable: the file is missing, is not JSON, or is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelUnusable(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelUnusable(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def read_config(folder: Path) -> Sam3Config:
    """Return the detector's configuration from `config.json` of either layout.

    Raises:
        ModelUnusable: no such file, another kind of model, or values that transformers refuses.
    """
    if not folder.is_dir():
        raise ModelUnusable(f"model folder {folder} does not exist; give a folder, hf://ORG/NAME@REV or preset:NAME")
    document = read_json(folder / "config.json")
    kind = document.get("model_type")
    if kind == "sam3_video":
        document = document.get("detector_config") or {}
    elif kind != "sam3":
        raise ModelUnusable(
            f"{folder / 'config.json'} has model_type {kind!r}; sam3ft trains 'sam3' and the detector of 'sam3_video'"
        )
    try:
        config: Sam3Config = Sam3Config.from_dict(document)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise ModelUnusable(f"{folder / 'config.json'} does not describe a SAM 3 model: {error}") from error
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files: those that the index names, else all.

    Raises:
        ModelUnusable: there is none, a shard of the index is missing, or only pickled weights are there.
    """
    index = folder / INDEX
    if index.is_file():
        named = read_json(index).get("weight_map")
        values = named.values() if isinstance(named, dict) else ()
        names = sorted({name if isinstance(name, str) else "?" for name in values})
        # A name with a path would lead out of the folder.
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing or not names:
            raise ModelUnusable(
                f"{index} names {len(names)} weight files, {len(missing)} are missing ({', '.join(missing[:3])}); "
                "copy the folder again, completely"
            )
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ModelUnusable(
            f"model folder {folder} has only pickled weights ({', '.join(pickled[:3])}), which can run code when they "
            "are read; sam3ft reads *.safetensors only: download that version, or convert the files"
        )
    raise ModelUnusable(f"model folder {folder} has no *.safetensors file")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: its file and its key there."""

    path: Path
    key: str


@dataclass(frozen=True, slots=True)
class FolderWeights:
    """The weights of a model folder by their name in `Sam3Model`.

    Attributes:
        folder: where they lie.
        tensors: place of each tensor, by the model's name for it.
        num_tracker: keys of the video model's tracker, which image training ignores.
    """

    folder: Path
    tensors: dict[str, StoredTensor] = field(repr=False)
    num_tracker: int

    @classmethod
    def scan(cls, folder: Path) -> "FolderWeights":
        """Read the headers of all weight files.

        Raises:
            ModelUnusable: no readable safetensors, or a tensor stored twice.
        """
        tensors: dict[str, StoredTensor] = {}
        num_tracker = 0
        for path in weight_files(folder):
            for key in _keys(path):
                if key.startswith(TRACKER_PREFIXES):
                    num_tracker += 1
                    continue
                name = key.removeprefix(DETECTOR_PREFIX)
                if name in tensors:
                    raise ModelUnusable(f"tensor {name} is stored twice, in {tensors[name].path} and {path}")
                tensors[name] = StoredTensor(path, key)
        return cls(folder, tensors, num_tracker)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor on the CPU, as stored) in the order of `names`; each file is opened once.

        Raises:
            ModelUnusable: a file changed or went away since the scan.
        """
        handles: dict[Path, Any] = {}
        try:
            for name in names:
                place = self.tensors[name]
                if place.path not in handles:
                    handles[place.path] = safe_open(place.path, framework="pt")
                yield name, handles[place.path].get_tensor(place.key)
        except (OSError, SafetensorError) as error:
            raise ModelUnusable(f"weights in {self.folder} cannot be read any more: {error}") from error


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelUnusable(f"{path} is not a readable safetensors file: {error}") from error


class TensorDigest:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order in which they are added."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._hash = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in one tensor on the CPU."""
        self._hash.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        self._hash.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)

    def hex(self) -> str:
        """Return the digest of what was added so far."""
        return self._hash.hexdigest()
