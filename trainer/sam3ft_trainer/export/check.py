"""Proof of an export: a fresh process loads the folder with the public calls and must compute what the trainer does.

The fresh process sees the folder alone. It records every warning and log record of the two `from_pretrained` calls,
the account of keys, and the outputs of the trainer's forward on real inputs. Those are compared with the outputs of the
model in memory, which for a rounded export (bfloat16, float16) is rounded alike before.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam3Model

from sam3ft_api.errors import ModelUnusable
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.build import allocate
from sam3ft_trainer.model.text import Tokenizer
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run.prefetch import normalise
from sam3ft_trainer.tensors import Batch

TOLERANCE = 1e-6
"""Largest difference of any output, relative to the largest absolute value of that output or 1."""
TIMEOUT_S = 1800.0
_WORLD_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@dataclass(frozen=True, slots=True)
class CheckInputs:
    """Real inputs for the comparison, on the CPU.

    Attributes:
        pixels_I3SS: uint8.
        input_ids_TK: int64.
        attention_mask_TK: int64.
        img_idx_B: int64.
        txt_idx_B: int64.
    """

    pixels_I3SS: Tensor
    input_ids_TK: Tensor
    attention_mask_TK: Tensor
    img_idx_B: Tensor
    txt_idx_B: Tensor

    @classmethod
    def from_batch(cls, batch: Batch, tokenizer: Tokenizer, *, max_pairs: int = 8) -> "CheckInputs":
        """Take the first pairs of a batch, with at least one."""
        if not len(batch.img_idx_B):
            raise ValueError("a check needs a batch with at least one (image, phrase) pair")
        ids, mask, _ = tokenizer.encode(batch.phrases)
        return cls(batch.pixels_I3SS, ids, mask, batch.img_idx_B[:max_pairs], batch.txt_idx_B[:max_pairs])

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the inputs by name, for a safetensors file."""
        return {name: getattr(self, name).contiguous() for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the fresh process found.

    Attributes:
        warnings: text of every warning and log record while loading; empty in a good export.
        missing_keys: tensors of the model that the folder lacks.
        unexpected_keys: tensors of the folder that the model lacks.
        largest_difference: over all outputs, relative; 0 means bitwise equality.
        num_outputs: tensors compared.
    """

    warnings: tuple[str, ...]
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    largest_difference: float
    num_outputs: int


def forward_outputs(sam3: Sam3Model, inputs: CheckInputs, config: ModelConfig, *, masks: bool) -> dict[str, Tensor]:
    """Return the outputs of the trainer's forward in float32, on the CPU, without dropout and autocast."""
    device = next(sam3.parameters()).device
    model = TrainingModel(sam3, config)
    was_training = sam3.training
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        predictions = model(
            normalise(inputs.pixels_I3SS.to(device)),
            inputs.input_ids_TK.to(device),
            inputs.attention_mask_TK.to(device),
            inputs.img_idx_B.to(device),
            inputs.txt_idx_B.to(device),
            o2m=False,
            masks=masks,
        )
    sam3.train(was_training)
    named = {
        "logits": predictions.logits_LBQ,
        "boxes": predictions.boxes_LBQ4,
        "presence": predictions.presence_LB,
        "masks": predictions.masks_BQhw,
        "semantic": predictions.semantic_B1hw,
    }
    return {name: value.float().cpu().contiguous() for name, value in named.items() if value is not None}


def rounded_model(sam3: Sam3Model, state: Mapping[str, Tensor]) -> Sam3Model:
    """Return a float32 model on the CPU with the values of an exported state."""
    model = allocate(sam3.config)
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
    return model


def check_folder(
    folder: Path, expected: Mapping[str, Tensor], inputs: CheckInputs, config: ModelConfig, *, masks: bool
) -> CheckResult:
    """Load `folder` in a fresh process on the CPU and compare its outputs with `expected`.

    Raises:
        ModelUnusable: it does not load, warns, lacks or adds tensors, or computes something else.
    """
    with tempfile.TemporaryDirectory(prefix="sam3ft-check-") as name:
        work = Path(name)
        save_file(inputs.to_tensors(), work / "inputs.safetensors")
        request = {
            "folder": str(folder),
            "work": str(work),
            "masks": masks,
            "threads": torch.get_num_threads(),
            "config": config.model_dump(mode="json"),
        }
        answer = _run_fresh(request)
        outputs = load_file(work / "outputs.safetensors")
    result = CheckResult(
        warnings=tuple(answer["warnings"]),
        missing_keys=tuple(answer["missing_keys"]),
        unexpected_keys=tuple(answer["unexpected_keys"]),
        largest_difference=largest_difference(expected, outputs),
        num_outputs=len(outputs),
    )
    _refuse_bad(folder, result)
    return result


def _run_fresh(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run `sam3ft_trainer.export.reload`, offline and outside of any process group."""
    environment = {key: value for key, value in os.environ.items() if key not in _WORLD_VARIABLES}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run(
        [sys.executable, "-m", "sam3ft_trainer.export.reload"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT_S,
        check=False,
    )
    if finished.returncode != 0:
        raise ModelUnusable(
            f"the export in {request['folder']} does not load in a fresh process: "
            f"{(finished.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    answer: dict[str, Any] = json.loads((Path(request["work"]) / "answer.json").read_text())
    return answer


def largest_difference(expected: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float:
    """Return the largest difference over all outputs, relative to the output's largest value or 1.

    Infinite when names or shapes differ or a value is not a number.
    """
    if {name: value.shape for name, value in expected.items()} != {
        name: value.shape for name, value in outputs.items()
    }:
        return float("inf")
    differences = [0.0]
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        gap = float((value - outputs[name]).abs().max()) / scale if value.numel() else 0.0
        differences.append(gap if gap == gap else float("inf"))  # noqa: PLR0124 - false for NaN alone
    return max(differences)


def _refuse_bad(folder: Path, result: CheckResult) -> None:
    problems: list[str] = []
    for what, found in (
        ("warnings", result.warnings),
        ("missing tensors", result.missing_keys),
        ("unexpected tensors", result.unexpected_keys),
    ):
        if found:
            problems.append(f"{len(found)} {what} ({_shortened(found)})")
    if result.largest_difference > TOLERANCE:
        problems.append(
            f"outputs differ from the trained model's by {result.largest_difference:.3g}, allowed is {TOLERANCE:g}"
        )
    if problems:
        raise ModelUnusable(f"the export in {folder} is not what was trained: " + "; ".join(problems))


def _shortened(found: Sequence[str]) -> str:
    return " ".join(found[0].split())[:200] + (", ..." if len(found) > 1 else "")
