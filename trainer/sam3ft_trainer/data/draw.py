"""Pictures of what the model is shown: a batch with its boxes, masks and phrases."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sam3ft_trainer.tensors import Batch

MARGIN = 4
LINE_HEIGHT = 12
MASK_OPACITY = 0.4
COLORS = (
    (230, 60, 60),
    (60, 140, 230),
    (60, 180, 75),
    (245, 160, 30),
    (160, 80, 200),
    (20, 190, 190),
    (240, 90, 190),
    (150, 150, 40),
)


def draw_batch(batch: Batch, path: Path, *, max_images: int = 8) -> None:
    """Write a PNG with the first images of a micro-batch side by side.

    Each phrase of the batch has a colour. Boxes and masks lie over the image as the loss sees them, padding included;
    below it stand its id and its phrases with their numbers of objects, negatives as 0.

    Args:
        batch: as the loader yields it.
        path: of the PNG; its folder must exist.
        max_images: at most so many; the widest picture has four in a row.
    """
    count = min(max_images, len(batch.image_ids))
    tiles = [_tile(batch, image) for image in range(count)] or [Image.new("RGB", (64, 16), "white")]
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    columns = min(4, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)))
    sheet.save(path, "PNG")


def _tile(batch: Batch, image: int) -> Image.Image:
    """Return one image with what is asked of it."""
    pairs = [pair for pair, owner in enumerate(batch.img_idx_B.tolist()) if owner == image]
    pixels = batch.pixels_I3SS[image].permute(1, 2, 0).numpy().copy()
    for pair in pairs:
        _shade(pixels, batch, pair)
    size = len(pixels)
    tile = Image.new("RGB", (size, size + LINE_HEIGHT * (len(pairs) + 1)), "white")
    tile.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(tile)
    note = f"image {batch.image_ids[image]}" + ("" if pairs else ": nothing is asked")
    pen.text((2, size), note, fill="black")
    for line, pair in enumerate(pairs, start=1):
        color = _color(batch, pair)
        boxes = batch.targets.boxes_N4[_span(batch, pair)].numpy() * size
        for x, y, w, h in boxes.tolist():
            pen.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), outline=color)
        phrase = batch.phrases[int(batch.txt_idx_B[pair])]
        pen.text((2, size + LINE_HEIGHT * line), f"{phrase}: {len(boxes)}", fill=color)
    return tile


def _shade(pixels: npt.NDArray[np.uint8], batch: Batch, pair: int) -> None:
    if batch.targets.masks_NSS is None:
        return
    union = batch.targets.masks_NSS[_span(batch, pair)].bool().any(dim=0).numpy()
    color = np.asarray(_color(batch, pair))
    pixels[union] = (pixels[union] * (1 - MASK_OPACITY) + color * MASK_OPACITY).astype(np.uint8)


def _span(batch: Batch, pair: int) -> slice:
    """Return the places of a pair's objects among the packed targets."""
    start = int(batch.targets.num_boxes_B[:pair].sum())
    return slice(start, start + int(batch.targets.num_boxes_B[pair]))


def _color(batch: Batch, pair: int) -> tuple[int, int, int]:
    return COLORS[int(batch.txt_idx_B[pair]) % len(COLORS)]
