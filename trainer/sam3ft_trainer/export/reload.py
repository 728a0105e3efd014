"""The fresh process of `check`: loads an exported folder as any user would, and computes.

Reads one JSON request from standard input: `folder`, `work`, `masks`, `threads`, `config`. Writes `outputs.safetensors`
and `answer.json` into `work`. Any failure is a non-zero exit status with the reason as the last line of standard error.
"""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Sam3Model, Sam3Processor
from transformers.utils import logging as transformers_logging

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.export.check import CheckInputs, forward_outputs


class _Listener(logging.Handler):
    """Collects the text of every record."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(level=logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect warnings of the `warnings` module and log records from WARNING on, of every library."""
    heard: list[str] = []
    listener = _Listener(heard)
    loggers = [logging.getLogger(), transformers_logging.get_logger("transformers")]
    for logger in loggers:
        logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield heard
            heard += [f"{item.category.__name__}: {item.message}" for item in caught]
    finally:
        for logger in loggers:
            logger.removeHandler(listener)


def run(request: dict[str, Any]) -> None:
    """Answer one request."""
    torch.set_num_threads(request["threads"])
    folder, work = Path(request["folder"]), Path(request["work"])
    with listening() as heard:
        sam3, account = Sam3Model.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        Sam3Processor.from_pretrained(folder)
    inputs = CheckInputs(**load_file(work / "inputs.safetensors"))
    outputs = forward_outputs(sam3, inputs, ModelConfig.model_validate(request["config"]), masks=request["masks"])
    save_file(outputs, work / "outputs.safetensors")
    answer = {
        "warnings": list(dict.fromkeys(heard)),
        "missing_keys": sorted(account["missing_keys"]),
        "unexpected_keys": sorted(account["unexpected_keys"]),
    }
    (work / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    run(json.load(sys.stdin))
