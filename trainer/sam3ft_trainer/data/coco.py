"""Reading a COCO annotation file: untrusted JSON in, a checked `CocoIndex` out.

Whatever no training can accept is refused with the id, the value and what is allowed; lesser findings are counted.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from sam3ft_api.errors import InvalidDataset
from sam3ft_trainer.data.index import NO_PHRASE, Category, CocoIndex, Ints, SegmentationColumn
from sam3ft_trainer.data.masks import BadSegmentation, Segmentation, read_segmentation
from sam3ft_trainer.data.report import ProblemLog

OUTSIDE_TOLERANCE_PX = 0.01
"""Exporters round to two digits; a box that sticks out by less than this is not worth a line."""


def parse_coco(content: bytes, log: ProblemLog, *, where: str) -> CocoIndex:
    """Parse and check one annotation file.

    Args:
        content: of the file.
        log: findings that do not refuse the file are counted here.
        where: address of the file, for messages.

    Raises:
        InvalidDataset: the file is no JSON, no COCO, or holds something that cannot be trained on; one message with
            the first example of every kind.
    """
    document = _load(content, where)
    categories = _read_categories(document["categories"], log)
    images = _read_images(document["images"], log)
    columns = _Columns(categories, images, log)
    for position, entry in enumerate(document["annotations"]):
        columns.read(position, entry)
    log.raise_refused(where)
    return columns.index(hashlib.sha256(content).hexdigest())


def _load(content: bytes, where: str) -> dict[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidDataset(f"{where} is not readable as JSON: {error}; export the annotations again") from error
    missing = [key for key in ("images", "annotations", "categories") if not _is_list(document, key)]
    if missing:
        raise InvalidDataset(
            f"{where} is JSON, but not COCO: it has no list of {' and no list of '.join(missing)}; "
            "export the annotations as COCO JSON (object detection or instance segmentation)"
        )
    return dict(document)


def _is_list(document: Any, key: str) -> bool:
    return isinstance(document, dict) and isinstance(document.get(key), list)


def _read_categories(entries: list[Any], log: ProblemLog) -> tuple[Category, ...]:
    found: dict[int, Category] = {}
    names: dict[str, int] = {}
    for position, entry in enumerate(entries):
        category_id = _id_of(entry, "category", position, log)
        if category_id is None:
            continue
        name = entry.get("name")
        name = name.strip() if isinstance(name, str) else ""
        if not name:
            log.refuse(
                "category_without_name", f"category {category_id} has no name; the name is the phrase it is asked with"
            )
        elif name in names:
            log.refuse(
                "category_name_twice",
                f"categories {names[name]} and {category_id} are both named {name!r}; give every category its own name",
            )
        if category_id in found:
            log.refuse("duplicate_id", f"category id {category_id} is used twice; ids must be unique")
        parent = entry.get("supercategory")
        names.setdefault(name, category_id)
        found[category_id] = Category(category_id, name, parent.strip() if isinstance(parent, str) else "")
    if not entries:
        log.refuse("no_category", "there is no category; at least one is needed")
    return tuple(found[category_id] for category_id in sorted(found))


@dataclass(frozen=True, slots=True)
class _Image:
    row: int
    height: int
    width: int
    file_name: str


def _read_images(entries: list[Any], log: ProblemLog) -> dict[int, _Image]:
    found: dict[int, tuple[int, int, str]] = {}
    for position, entry in enumerate(entries):
        image_id = _id_of(entry, "image", position, log)
        if image_id is None:
            continue
        if image_id in found:
            log.refuse("duplicate_id", f"image id {image_id} is used twice; ids must be unique")
            continue
        height, width, name = entry.get("height"), entry.get("width"), entry.get("file_name")
        if not isinstance(name, str) or not name:
            log.refuse("image_without_file", f"image {image_id} has no file_name")
            continue
        if not (_is_count(height) and _is_count(width)):
            log.refuse(
                "image_without_size",
                f"image {image_id} ({name!r}) has height {height!r} and width {width!r}; give both in whole pixels",
            )
            continue
        found[image_id] = (height, width, name)
    if not entries:
        log.refuse("empty_split", "the split is empty: there is no image")
    return {image_id: _Image(row, *found[image_id]) for row, image_id in enumerate(sorted(found))}


@dataclass(slots=True)
class _Columns:
    """Grows the columns of the annotations, in the order of the file."""

    categories: tuple[Category, ...]
    images: dict[int, _Image]
    log: ProblemLog
    seen_ids: set[int] = field(default_factory=set)
    category_rows: dict[int, int] = field(init=False)
    phrases: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, int, int, float, bool, bool, int]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    segmentations: list[Segmentation | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.category_rows = {category.id: row for row, category in enumerate(self.categories)}

    def read(self, position: int, entry: Any) -> None:
        """Check one annotation and append it."""
        annotation_id = _id_of(entry, "annotation", position, self.log)
        if annotation_id is None:
            return
        if annotation_id in self.seen_ids:
            self.log.refuse("duplicate_id", f"annotation id {annotation_id} is used twice; ids must be unique")
        self.seen_ids.add(annotation_id)
        image = self._known(entry, "image_id", self.images, annotation_id)
        category_row = self._known(entry, "category_id", self.category_rows, annotation_id)
        if image is None or category_row is None:
            return
        segmentation = self._segmentation(entry, image, annotation_id)
        box = self._box(entry, image, segmentation, annotation_id)
        if box is None:
            return
        usable = self._place(box, image, annotation_id)
        area = entry.get("area")
        area = float(area) if _is_number(area) else box[2] * box[3]
        crowd = bool(entry.get("iscrowd", 0))
        self.rows.append(
            (image.row, annotation_id, category_row, area, crowd, usable, self._phrase(entry, annotation_id))
        )
        self.boxes.append(box)
        self.segmentations.append(segmentation)

    def _known(self, entry: dict[str, Any], key: str, known: dict[int, Any], annotation_id: int) -> Any:
        value = entry.get(key)
        if type(value) is int and value in known:
            return known[value]
        kind = key.removesuffix("_id")
        self.log.refuse(
            f"unknown_{kind}", f"annotation {annotation_id} belongs to {kind} {value!r}, which is not in the file"
        )
        return None

    def _segmentation(self, entry: dict[str, Any], image: _Image, annotation_id: int) -> Segmentation | None:
        try:
            return read_segmentation(entry.get("segmentation"), image.height, image.width)
        except BadSegmentation as error:
            self.log.refuse("bad_segmentation", f"annotation {annotation_id} (image {image.file_name!r}) has {error}")
            return None

    def _box(
        self, entry: dict[str, Any], image: _Image, segmentation: Segmentation | None, annotation_id: int
    ) -> tuple[float, float, float, float] | None:
        box = entry.get("bbox")
        if isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box):
            x, y, w, h = (float(value) for value in box)
            return x, y, w, h
        if box:
            self.log.refuse(
                "bad_box", f"annotation {annotation_id} has bbox {box!r}; write [x, y, width, height] in pixels"
            )
            return None
        if segmentation is None:
            self.log.refuse("no_box", f"annotation {annotation_id} has neither bbox nor segmentation; give one of them")
            return None
        self.log.add("box_from_mask", "notice", f"annotation {annotation_id} has no bbox; its mask's is used")
        return segmentation.box_xywh(image.height, image.width)

    def _place(self, box: tuple[float, float, float, float], image: _Image, annotation_id: int) -> bool:
        """Count a box that is empty, outside or partly outside; return whether it can be used."""
        x, y, w, h = box
        text = (
            f"annotation {annotation_id}: box {list(box)} in {image.file_name!r} of {image.width} x {image.height} px"
        )
        if w <= 0 or h <= 0:
            self.log.add("box_of_zero_size", "bad", text)
            return False
        if x >= image.width or y >= image.height or x + w <= 0 or y + h <= 0:
            self.log.add("box_outside_image", "bad", text)
            return False
        overhang = max(-x, -y, x + w - image.width, y + h - image.height)
        if overhang > OUTSIDE_TOLERANCE_PX:
            self.log.add("box_partly_outside", "mended", f"{text}, clamped to the image")
        return True

    def _phrase(self, entry: dict[str, Any], annotation_id: int) -> int:
        value = entry.get("noun_phrase", entry.get("phrase"))
        if value is None:
            return NO_PHRASE
        if not isinstance(value, str) or not value.strip() or len(value) > 256:
            self.log.add(
                "annotation_phrase_ignored",
                "notice",
                f"annotation {annotation_id} has the phrase {str(value)[:40]!r}; expected are 1 to 256 letters, "
                "so its category's phrase is used",
            )
            return NO_PHRASE
        return self.phrases.setdefault(value.strip(), len(self.phrases))

    def index(self, digest: str) -> CocoIndex:
        """Return the columns grouped by image."""
        image_rows = np.asarray([row[0] for row in self.rows], dtype=np.int64)
        order = np.argsort(image_rows, kind="stable")
        column = [np.asarray([row[place] for row in self.rows])[order] for place in range(1, 7)]
        ids = sorted(self.images)
        counts = np.bincount(image_rows, minlength=len(ids)) if len(self.rows) else np.zeros(len(ids), np.int64)
        return CocoIndex(
            digest=digest,
            categories=self.categories,
            image_ids=np.asarray(ids, dtype=np.int64),
            sizes_hw=np.asarray([(self.images[i].height, self.images[i].width) for i in ids], dtype=np.int64),
            file_names=tuple(self.images[i].file_name for i in ids),
            starts=_running_sum(counts),
            annotation_ids=column[0].astype(np.int64),
            category_rows=column[1].astype(np.int64),
            areas=column[2].astype(np.float64),
            is_crowd=column[3].astype(np.bool_),
            is_usable=column[4].astype(np.bool_),
            phrase_rows=column[5].astype(np.int64),
            boxes_m4=np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4)[order],
            own_phrases=tuple(self.phrases),
            segmentations=SegmentationColumn.of([self.segmentations[row] for row in order.tolist()]),
        )


def _running_sum(counts: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _id_of(entry: Any, kind: str, position: int, log: ProblemLog) -> int | None:
    value = entry.get("id") if isinstance(entry, dict) else None
    if type(value) is int and abs(value) < 2**63:
        return value
    log.refuse("bad_id", f"{kind} number {position} of the file has the id {value!r}; ids are whole numbers")
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31
