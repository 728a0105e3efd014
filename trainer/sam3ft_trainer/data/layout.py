"""Where the splits of a data set lie: folders, or prefixes of an object store."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sam3ft_api.errors import InvalidConfig, InvalidDataset, StorageDenied
from sam3ft_api.training import DataConfig
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.annotations import ANNOTATIONS, AnnotationFile, LocalAnnotations, RemoteAnnotations
from sam3ft_trainer.data.source import FolderSource, ImageSource, KeyMissing, clean_key, local_path
from sam3ft_trainer.store.uri import Address, parse_address

Split = Literal["train", "valid", "test"]
FOLDER_NAMES: dict[str, tuple[str, ...]] = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
_STORE = re.compile(r"^(s3|gs|az)://", re.IGNORECASE)
Place = Path | Address
"""A folder or file of this machine, or a prefix or object of a store."""


@dataclass(frozen=True, slots=True)
class SplitPlace:
    """Annotation file and image root of one split.

    Attributes:
        annotations: the COCO JSON.
        images: root that the file names are relative to; images may also lie in `images/` below it.
    """

    annotations: AnnotationFile
    images: ImageSource

    @property
    def address(self) -> str:
        """The annotation file, as shown to users."""
        return self.annotations.address

    def image_key(self, file_name: str, listed: dict[str, int]) -> str:
        """Return the key of an image: beside the annotations, or in `images/`.

        Args:
            file_name: as in the annotation file.
            listed: `images.files()`.

        Raises:
            KeyMissing: the file is at neither place.
            KeyLeavesRoot: the name points outside the root.
        """
        key = clean_key(file_name)
        for candidate in (key, f"images/{key}"):
            if candidate in listed:
                self.images.check(candidate)
                return candidate
        try:
            self.images.check(key)
        except KeyMissing:
            self.images.check(f"images/{key}")
            return f"images/{key}"
        return key


def find_split(config: DataConfig, split: Split, access: DataAccess) -> SplitPlace | None:
    """Return the place of a split, or None when the data set does not have it.

    `train` must exist. A folder `valid/` (or `val/`) or `test/` that exists must hold annotations; in a store it exists
    when it holds an object.

    Raises:
        InvalidConfig: neither `data.uri` nor the split's own addresses are set, or they are of an unknown kind.
        StorageDenied: a folder or bucket does not exist or may not be read.
        StorageUnavailable: the store does not answer.
        InvalidDataset: the data set has no `train/`.
    """
    own = {"train": config.train, "valid": config.valid, "test": config.test}[split]
    given = None if own.images is None else _place(config, own.images, f"data.{split}.images")
    if own.annotations is not None:
        annotations = _place(config, own.annotations, f"data.{split}.annotations")
        return _split_at(annotations, given or _parent(annotations), access)
    folder = _split_folder(config, split, access)
    root = folder if given is None else given
    if root is None:
        return None
    return _split_at(_child(folder or root, ANNOTATIONS), root, access)


def _split_at(annotations: Place, root: Place, access: DataAccess) -> SplitPlace:
    return SplitPlace(_annotations_at(annotations, access), _images_at(root, access))


def _images_at(root: Place, access: DataAccess) -> ImageSource:
    return FolderSource(root) if isinstance(root, Path) else access.source(root)


def _annotations_at(place: Place, access: DataAccess) -> AnnotationFile:
    if isinstance(place, Path):
        return LocalAnnotations(place)
    folder = _parent(place)
    assert isinstance(folder, Address)  # noqa: S101 - the parent of an object is a prefix; narrows the type
    return RemoteAnnotations(access.source(folder), place.path.rpartition("/")[2], identity=access.identity(folder))


def _place(config: DataConfig, text: str, setting: str) -> Place:
    """Return a place; a relative one counts from `data.uri` when that is a store, else from the current folder."""
    if _STORE.match(text):
        return parse_address(text)
    path = local_path(text, setting)
    if config.uri is not None and _STORE.match(config.uri) and not path.is_absolute():
        return parse_address(f"{config.uri.rstrip('/')}/{text}")
    return path


def _parent(place: Place) -> Place:
    if isinstance(place, Path):
        return place.parent
    return Address(place.scheme, place.bucket, place.path.rpartition("/")[0])


def _child(place: Place, name: str) -> Place:
    return place / name if isinstance(place, Path) else place.child(name)


def _split_folder(config: DataConfig, split: Split, access: DataAccess) -> Place | None:
    if config.uri is None:
        if split == "train" and config.train.images is None:
            raise InvalidConfig("data.uri is not set; give the folder that holds train/, or data.train.annotations")
        return None
    root = _place(config, config.uri, "data.uri")
    if isinstance(root, Path) and not root.is_dir():
        raise StorageDenied(f"data.uri {config.uri!r} is no folder; give the folder that holds train/")
    for name in FOLDER_NAMES[split]:
        folder = _child(root, name)
        if _exists(folder, access):
            return folder
    if split == "train" and config.train.images is None:
        if isinstance(root, Address) and not _exists(root, access):
            raise StorageDenied(f"data.uri {config.uri!r} holds no object; give the address that holds train/")
        raise InvalidDataset(
            f"data.uri {config.uri!r} has no folder train/; expected are train/{ANNOTATIONS} and its images, "
            "valid/ and test/ beside it where they exist, or addresses in data.train"
        )
    return None


def _exists(place: Place, access: DataAccess) -> bool:
    return place.is_dir() if isinstance(place, Path) else bool(access.source(place).files())
