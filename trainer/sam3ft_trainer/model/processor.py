"""The processor that goes with an exported model: image side and tokenizer."""

from transformers import Sam3ImageProcessor, Sam3Processor

from sam3ft_trainer.model.text import Tokenizer


def build_processor(tokenizer: Tokenizer, resolution: int) -> Sam3Processor:
    """Return a processor that resizes to `resolution` squared and normalises as training does, ready to be saved.

    `Sam3Processor.from_pretrained` reads it back without network.
    """
    side = {"height": resolution, "width": resolution}
    mask_side = resolution // 14 * 4
    images = Sam3ImageProcessor(size=side, mask_size={"height": mask_side, "width": mask_side})
    return Sam3Processor(images, tokenizer.pretrained, target_size=resolution)
