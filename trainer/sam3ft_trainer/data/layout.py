"""Where the splits of a data set lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sam3ft_api.errors import InvalidConfig, InvalidDataset, StorageDenied
from sam3ft_api.training import DataConfig
from sam3ft_trainer.data.source import FolderSource, ImageSource, KeyMissing, clean_key, local_path

Split = Literal["train", "valid", "test"]
ANNOTATIONS = "_annotations.coco.json"
FOLDER_NAMES: dict[str, tuple[str, ...]] = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


@dataclass(frozen=True, slots=True)
class SplitPlace:
    """Annotation file and image root of one split.

    Attributes:
        annotations: path of the COCO JSON.
        images: root that the file names are relative to; images may also lie in `images/` below it.
    """

    annotations: Path
    images: ImageSource

    @property
    def address(self) -> str:
        """The annotation file, as shown to users."""
        return str(self.annotations)

    def read_annotations(self) -> bytes:
        """Return the annotation file's bytes.

        Raises:
            InvalidDataset: there is no such file.
            StorageDenied: it may not be read.
        """
        try:
            return self.annotations.read_bytes()
        except PermissionError as error:
            raise StorageDenied(f"{self.address!r} may not be read; check its permissions") from error
        except OSError as error:
            raise InvalidDataset(
                f"{self.address!r} cannot be read ({error.strerror}); every split needs its annotations as "
                f"{ANNOTATIONS}, or an address in data.SPLIT.annotations"
            ) from error

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


def find_split(config: DataConfig, split: Split) -> SplitPlace | None:
    """Return the place of a split, or None when the data set does not have it.

    `train` must exist. A folder `valid/` (or `val/`) or `test/` that exists must hold annotations.

    Raises:
        InvalidConfig: neither `data.uri` nor the split's own addresses are set, or they are not local.
        StorageDenied: a folder does not exist or may not be read.
        InvalidDataset: the data set has no `train/`.
    """
    own = {"train": config.train, "valid": config.valid, "test": config.test}[split]
    if own.annotations is not None:
        annotations = local_path(own.annotations, f"data.{split}.annotations")
        root = annotations.parent if own.images is None else local_path(own.images, f"data.{split}.images")
        return SplitPlace(annotations, FolderSource(root))
    folder = _split_folder(config, split)
    if own.images is not None:
        root = local_path(own.images, f"data.{split}.images")
        return SplitPlace((folder or root) / ANNOTATIONS, FolderSource(root))
    return None if folder is None else SplitPlace(folder / ANNOTATIONS, FolderSource(folder))


def _split_folder(config: DataConfig, split: Split) -> Path | None:
    if config.uri is None:
        if split == "train" and config.train.images is None:
            raise InvalidConfig("data.uri is not set; give the folder that holds train/, or data.train.annotations")
        return None
    root = local_path(config.uri, "data.uri")
    if not root.is_dir():
        raise StorageDenied(f"data.uri {config.uri!r} is no folder; give the folder that holds train/")
    for name in FOLDER_NAMES[split]:
        if (root / name).is_dir():
            return root / name
    if split == "train" and config.train.images is None:
        raise InvalidDataset(
            f"data.uri {config.uri!r} has no folder train/; expected are train/{ANNOTATIONS} and its images, "
            "valid/ and test/ beside it where they exist, or addresses in data.train"
        )
    return None
