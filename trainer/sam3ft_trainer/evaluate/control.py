"""The control of an evaluation: the same detections, held against the annotations of another image.

A model that has learned where objects usually are, and nothing about what it sees, scores as well here as on the right
images. Dense and regular images (cells on a slide, cars in a park) let a blind guess look better than it is; the
control says how much of a score is that guess.
"""

from collections.abc import Sequence

from sam3ft_trainer.evaluate.truth import Detection, Truth


def move_detections(truth: Truth, detections: Sequence[Detection]) -> list[Detection]:
    """Return every detection moved to the next image of the split, in id order; the last image's go to the first.

    Boxes are scaled with the images. Masks are dropped: the control is scored on boxes. With a single image there is
    no other one, and the detections stay.
    """
    ids = sorted(truth.sizes_hw)
    following = dict(zip(ids, [*ids[1:], *ids[:1]], strict=True))
    moved = []
    for item in detections:
        target = following[item.image_id]
        (height, width), (new_height, new_width) = truth.sizes_hw[item.image_id], truth.sizes_hw[target]
        x_scale, y_scale = new_width / width, new_height / height
        x, y, w, h = item.box_xywh
        box = (x * x_scale, y * y_scale, w * x_scale, h * y_scale)
        moved.append(item._replace(image_id=target, box_xywh=box, rle=None))
    return moved
