"""Every kind of image file becomes the RGB that users see, or a named reason why not."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3ft_trainer.data import decode
from sam3ft_trainer.data.decode import BadImage, Scratch, decode_image

RGB = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
SIZE = (20, 28)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(RGB), "JPEG", exif=exif, quality=95, subsampling=0)


def test_a_jpeg_has_the_pixels_that_pillow_gives() -> None:
    content = saved(Image.fromarray(RGB), "JPEG", quality=90)

    image = decode_image(content, size_hw=SIZE)

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), image.rgb_HW3)
    assert image.notes == ()


def test_scratch_memory_changes_nothing() -> None:
    scratch = Scratch()
    contents = [saved(Image.fromarray(np.roll(RGB, shift, axis=1)), "JPEG") for shift in range(3)]

    pixels = [decode_image(content, size_hw=SIZE, scratch=scratch).rgb_HW3.copy() for content in contents]

    assert all(
        np.array_equal(decode_image(content, size_hw=SIZE).rgb_HW3, one)
        for content, one in zip(contents, pixels, strict=True)
    )


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(form: str) -> None:
    image = decode_image(saved(Image.fromarray(RGB), form), size_hw=SIZE)

    assert np.array_equal(RGB, image.rgb_HW3)


def test_grey_is_repeated() -> None:
    grey = Image.fromarray(RGB[..., 0])

    from_png = decode_image(saved(grey, "PNG"), size_hw=SIZE)
    from_jpeg = decode_image(saved(grey, "JPEG"), size_hw=SIZE)

    assert np.array_equal(np.repeat(RGB[..., :1], 3, axis=2), from_png.rgb_HW3)
    assert from_jpeg.rgb_HW3.shape == (*SIZE, 3)
    assert (from_png.notes, from_jpeg.notes) == (("grey",), ("grey",))


def test_sixteen_bits_become_their_high_byte() -> None:
    wide = RGB[..., 0].astype(np.uint16) * 256 + 77

    image = decode_image(saved(Image.fromarray(wide), "PNG"), size_hw=SIZE)

    assert np.array_equal(np.repeat(RGB[..., :1], 3, axis=2), image.rgb_HW3)
    assert image.notes == ("sixteen_bit",)


def test_the_colour_below_transparency_is_used() -> None:
    alpha = np.zeros((*SIZE, 1), dtype=np.uint8)
    content = saved(Image.fromarray(np.concatenate((RGB, alpha), axis=2), "RGBA"), "PNG")

    image = decode_image(content, size_hw=SIZE)

    assert np.array_equal(RGB, image.rgb_HW3)
    assert image.notes == ("alpha",)


def test_a_palette_is_looked_up() -> None:
    palette = Image.fromarray(RGB).quantize(200)

    image = decode_image(saved(palette, "PNG"), size_hw=SIZE)

    assert np.array_equal(np.asarray(palette.convert("RGB")), image.rgb_HW3)
    assert image.notes == ("palette",)


def test_cmyk_becomes_rgb() -> None:
    image = decode_image(saved(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=100), size_hw=SIZE)

    assert np.abs(image.rgb_HW3.astype(int) - RGB).mean() < 12
    assert image.notes == ("cmyk",)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_applied_as_viewers_do(orientation: int) -> None:
    content = with_orientation(orientation)
    upright = Image.open(io.BytesIO(content))
    size = SIZE[::-1] if orientation >= 5 else SIZE

    image = decode_image(content, size_hw=size)

    turned = {
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: np.rot90(RGB, 2).transpose(1, 0, 2),
        8: np.rot90(RGB),
    }[orientation]
    assert np.abs(image.rgb_HW3.astype(int) - turned).mean() < 10
    assert "exif_orientation" in image.notes
    upright.close()


def test_orientation_is_left_alone_where_the_annotations_were_made_on_stored_pixels() -> None:
    content = with_orientation(6)

    image = decode_image(content, size_hw=SIZE)

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), image.rgb_HW3)
    assert image.notes == ()


def bomb() -> bytes:
    small = saved(Image.fromarray(RGB), "PNG")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not_an_image"),
    "text": (b"not a picture at all", "not_an_image"),
    "a form that is not allowed": (saved(Image.fromarray(RGB), "GIF"), "not_an_image"),
    "floating point": (saved(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF"), "not_an_image"),
    "half a JPEG": (saved(Image.fromarray(RGB), "JPEG")[:-200], "truncated_image"),
    "half a PNG": (saved(Image.fromarray(RGB), "PNG")[:-60], "truncated_image"),
    "a bomb": (bomb(), "decompression_bomb"),
    "another size": (saved(Image.fromarray(RGB[:-1]), "PNG"), "image_size_mismatch"),
}


@pytest.mark.parametrize(("content", "kind"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_named(content: bytes, kind: str) -> None:
    with pytest.raises(BadImage) as problem:
        decode_image(content, size_hw=SIZE)

    assert problem.value.kind == kind


def test_the_pixel_limit_holds_below_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_IMAGE_PIXELS", 500)

    with pytest.raises(BadImage, match="28 x 20 pixels"):
        decode_image(saved(Image.fromarray(RGB), "JPEG"), size_hw=SIZE)
