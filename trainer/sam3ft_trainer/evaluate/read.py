"""From an opened data set to the truth that is scored."""

from collections.abc import Iterator

from pycocotools import mask as coco_mask

from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.index import CocoIndex
from sam3ft_trainer.evaluate.truth import Rle, Truth, TruthObject


def truth_of(dataset: CocoDataset, *, masks: bool) -> Truth:
    """Return the truth of a split, in original pixels.

    Boxes are taken as the file has them, not clipped. Objects whose box is empty or wholly outside its image are left
    out, as in training: no detection could find them. Upstream's size and count filters are train-time filters and do
    not apply. Crowd regions stay, to be ignored. A mask without any pixel counts as none.

    Args:
        dataset: the split; its categories that are asked are scored.
        masks: also encode masks.
    """
    index = dataset.index
    wanted = frozenset(category.id for category in dataset.book.categories)
    rows = {int(index.image_ids[row]): int(row) for row in dataset.rows}
    return Truth(
        sizes_hw={
            image_id: (int(index.sizes_hw[row][0]), int(index.sizes_hw[row][1])) for image_id, row in rows.items()
        },
        categories={category.id: category.name for category in dataset.book.categories},
        objects=[
            item for image_id, row in rows.items() for item in _objects(index, image_id, row, wanted, masks=masks)
        ],
        exhaustive=frozenset(
            category.id
            for category, complete in zip(dataset.book.categories, dataset.book.exhaustive, strict=True)
            if complete
        ),
    )


def _objects(
    index: CocoIndex, image_id: int, image_row: int, wanted: frozenset[int], *, masks: bool
) -> Iterator[TruthObject]:
    span = index.rows_of(image_row)
    for row in range(span.start, span.stop):
        category_id = index.categories[int(index.category_rows[row])].id
        if category_id not in wanted or not index.is_usable[row]:
            continue
        x, y, w, h = (float(value) for value in index.boxes_m4[row])
        yield TruthObject(
            image_id=image_id,
            category_id=category_id,
            box_xywh=(x, y, w, h),
            rle=_mask(index, row) if masks else None,
            area=float(index.areas[row]),
            is_crowd=bool(index.is_crowd[row]),
        )


def _mask(index: CocoIndex, row: int) -> Rle | None:
    encoded = index.encoded_mask(row)
    if encoded is None or not coco_mask.area(encoded):
        return None
    height, width = encoded["size"]
    return Rle(size=[int(height), int(width)], counts=bytes(encoded["counts"]).decode("ascii"))
