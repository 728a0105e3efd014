"""Bytes to pixels: strict, safe, and with the same result as the tools that users look at their images with.

JPEGs are decoded by libjpeg-turbo through simplejpeg, whose pixels equal Pillow's at a third of its time; everything
else goes through Pillow. What is no plain 8-bit RGB image is converted by one documented rule each:

grey, palette: to RGB. CMYK: Pillow's conversion. 16-bit grey: the high byte. Transparency: left out, the colour below
it is used, as upstream and every `convert("RGB")` do. EXIF orientation: applied, unless the annotations' image size
says that they were made on the stored pixels.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_IMAGE_PIXELS = 178_956_970
"""Twice Pillow's warning threshold, where Pillow itself refuses; half a gigabyte as RGB."""
SCRATCH_BYTES = 64 << 20
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
ORIENTATION_TAG = 0x0112
WIDE_GREY = ("I;16", "I;16B", "I;16L", "I;16N")


class BadImage(ValueError):
    """An image that cannot be used; it is quarantined.

    Attributes:
        kind: not_an_image, truncated_image, decompression_bomb or image_size_mismatch.
        sha256: hex digest of the file's bytes, where whoever read it has added it.
    """

    sha256: str = ""

    def __init__(self, kind: str, reason: str) -> None:
        """Keep the kind beside the sentence."""
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels of one image.

    Attributes:
        rgb_HW3: uint8 [height, width, 3].
        notes: what was converted: exif_orientation, grey, palette, cmyk, alpha, sixteen_bit, other_mode.
    """

    rgb_HW3: npt.NDArray[np.uint8]
    notes: tuple[str, ...]


class Scratch:
    """Memory that one thread decodes into again and again: fresh pages cost a sixth of a JPEG's decoding."""

    def __init__(self) -> None:
        """Begin with nothing; grows to the largest image, up to SCRATCH_BYTES."""
        self._memory = np.empty(0, dtype=np.uint8)

    def of(self, num_bytes: int) -> npt.NDArray[np.uint8] | None:
        """Return at least `num_bytes`, or None for an image too large to keep memory for."""
        if num_bytes > SCRATCH_BYTES:
            return None
        if len(self._memory) < num_bytes:
            self._memory = np.empty(num_bytes, dtype=np.uint8)
        return self._memory


def decode_image(content: bytes, *, size_hw: tuple[int, int], scratch: Scratch | None = None) -> DecodedImage:
    """Decode one image at the size that its annotations are drawn on.

    Args:
        content: of the file.
        size_hw: height and width that the annotation file states.
        scratch: of the calling thread; the result may lie in it, and is then valid until the next call with it.

    Raises:
        BadImage: not an image of a known format, truncated or damaged, too large to decode safely, or of another size
            than stated.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_pixels(image.size)
            turn = _orientation(image, size_hw)
            rgb, notes = _pixels(image, content, turn=turn, scratch=scratch or Scratch())
    except UnidentifiedImageError as error:
        raise BadImage("not_an_image", f"no image of a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise BadImage("decompression_bomb", str(error)) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage("truncated_image", f"truncated or damaged: {error}") from error
    if rgb.shape[:2] != size_hw:
        raise BadImage(
            "image_size_mismatch",
            f"is {rgb.shape[1]} x {rgb.shape[0]} px, but its annotations say {size_hw[1]} x {size_hw[0]}",
        )
    return DecodedImage(rgb, notes)


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise BadImage(
            "decompression_bomb", f"{size[0]} x {size[1]} pixels, more than the {MAX_IMAGE_PIXELS} that are decoded"
        )


def _orientation(image: Image.Image, size_hw: tuple[int, int]) -> bool:
    """Return whether the EXIF orientation is to be applied.

    It is, as viewers and annotation tools do, unless the stated size fits the stored pixels only.
    """
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    if orientation not in range(2, 9):
        return False
    stored_hw = (image.size[1], image.size[0])
    shown_hw = stored_hw[::-1] if orientation >= 5 else stored_hw
    return shown_hw == size_hw or stored_hw != size_hw


def _pixels(
    image: Image.Image, content: bytes, *, turn: bool, scratch: Scratch
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    if image.format == "JPEG" and image.mode in ("RGB", "L") and not turn:
        rgb = simplejpeg.decode_jpeg(content, colorspace="RGB", buffer=scratch.of(3 * image.width * image.height))
        return rgb, (() if image.mode == "RGB" else ("grey",))
    notes = [_note(image)] if image.mode != "RGB" else []
    upright: Image.Image = image
    if turn:
        upright = ImageOps.exif_transpose(image)
        notes.append("exif_orientation")
    return np.ascontiguousarray(_as_rgb(upright)), tuple(notes)


def _note(image: Image.Image) -> str:
    if image.mode in WIDE_GREY or image.mode == "I":
        return "sixteen_bit"
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        return "alpha"
    return {"1": "grey", "L": "grey", "P": "palette", "CMYK": "cmyk"}.get(image.mode, "other_mode")


def _as_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode in WIDE_GREY or image.mode == "I":
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise BadImage("not_an_image", "32-bit integer pixels; convert it to 8 or 16 bits")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise BadImage("not_an_image", "floating-point pixels; convert it to 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
