"""Names and dimensions of the presets; apart from their models, so that a name can be judged without torch."""

from dataclasses import dataclass

from sam3ft_api.errors import InvalidConfig

PRESET_SCHEME = "preset:"
"""How the address of a preset begins."""
PATCH = 14
"""Side of a patch of every preset, pixels."""


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a preset; everything else follows from them.

    Attributes:
        resolution: side of the input the preset was made for, pixels.
        hidden: width of the ViT and of every DETR part.
        vit_ff: hidden width of the ViT's MLP.
        vit_layers: ViT blocks; the last one attends globally.
        heads: attention heads of the ViT.
        window: window side in patches.
        pretrain: side of the tiled position embedding, pixels.
        text_layers: layers of the text encoder.
        encoder_layers: fusion encoder layers.
        decoder_layers: decoder layers.
        queries: object queries.
    """

    resolution: int
    hidden: int
    vit_ff: int
    vit_layers: int
    heads: int
    window: int
    pretrain: int
    text_layers: int
    encoder_layers: int
    decoder_layers: int
    queries: int


DEMO = Size(224, 128, 256, 4, 4, 8, 112, 2, 1, 3, 50)
SIZES: dict[str, Size] = {
    "tiny": DEMO,
    "tiny-demo": DEMO,
    "tiny-nano": Size(28, 16, 32, 1, 2, 1, 14, 1, 1, 1, 4),
    "tiny-micro": Size(112, 32, 64, 2, 2, 4, 56, 1, 2, 2, 16),
    "tiny-learn": Size(112, 64, 128, 3, 2, 4, 56, 1, 2, 2, 10),
    "tiny-small": Size(224, 64, 128, 4, 2, 8, 112, 2, 3, 3, 20),
}
REAL = "sam3"
"""Name of the preset with the published architecture."""


def preset_names() -> list[str]:
    """Return every name that may follow `preset:`."""
    return [*SIZES, REAL]


def preset_resolution(name: str) -> int:
    """Return the input side that the preset was made for, in pixels.

    Raises:
        InvalidConfig: there is no such preset.
    """
    return 1008 if name == REAL else preset_size(name).resolution


def preset_size(name: str) -> Size:
    """Return the dimensions of a small preset.

    Raises:
        InvalidConfig: there is no such preset.
    """
    try:
        return SIZES[name]
    except KeyError:
        raise InvalidConfig(f"model.uri 'preset:{name}' is unknown; presets are {', '.join(preset_names())}") from None
