"""Ground truth for the metrics: objects and sizes in pixels of the original images."""

from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.evaluate.truth import Rle, Truth, TruthObject


def ground_truth(dataset: CocoDataset, *, masks: bool) -> Truth:
    """Return what the images of a split are scored against.

    Crowd regions are included and marked. Categories that are not asked (empty parents) and unusable boxes are left
    out, as they are in training. Boxes are as in the file, not clamped, as in upstream's evaluation.

    Args:
        dataset: the split.
        masks: whether objects carry their masks.
    """
    index = dataset.index
    asked = {row: category.id for row, category in zip(dataset.book.rows, dataset.categories, strict=True)}
    objects = []
    for image_row in dataset.rows.tolist():
        span = index.rows_of(image_row)
        for row in range(span.start, span.stop):
            category_id = asked.get(int(index.category_rows[row]))
            if category_id is None or not index.is_usable[row]:
                continue
            x, y, w, h = index.boxes_m4[row].tolist()
            objects.append(
                TruthObject(
                    image_id=int(index.image_ids[image_row]),
                    category_id=category_id,
                    box_xywh=(x, y, w, h),
                    rle=_rle(dataset, row) if masks else None,
                    area=float(index.areas[row]),
                    is_crowd=bool(index.is_crowd[row]),
                )
            )
    return Truth(
        sizes_hw={image_id: dataset.size_hw(image_id) for image_id in dataset.image_ids},
        categories={category.id: category.name for category in dataset.categories},
        objects=objects,
        exhaustive=frozenset(
            category.id
            for category, is_complete in zip(dataset.categories, dataset.book.exhaustive, strict=True)
            if is_complete
        ),
    )


def _rle(dataset: CocoDataset, row: int) -> Rle | None:
    encoded = dataset.index.encoded_mask(row)
    return None if encoded is None else Rle(size=list(encoded["size"]), counts=bytes(encoded["counts"]).decode("ascii"))
