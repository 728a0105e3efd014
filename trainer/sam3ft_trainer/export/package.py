"""The export as one call: write, check in a fresh process, describe, publish."""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import Sam3Model

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.export.card import CARD, CardFacts, render_card
from sam3ft_trainer.export.check import (
    CheckInputs,
    CheckResult,
    check_folder,
    forward_outputs,
    rounded_model,
)
from sam3ft_trainer.export.folder import Dtype, rounded_state, write_folder
from sam3ft_trainer.export.publish import export_record, publish, staging, write_manifest
from sam3ft_trainer.model.processor import build_processor
from sam3ft_trainer.model.text import Tokenizer
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.records import ExportRecord
from sam3ft_trainer.store.uri import parse_address

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """Where an export goes and how it is checked.

    Attributes:
        destination: folder path or URL.
        scratch: folder on this machine where an export to a bucket is built.
        dtype: of the weights.
        config: the model's settings in training, for the trainer's forward.
        inputs: real inputs, on which outputs are compared.
        access: how a bucket is reached; None as in `open_store`.
        outage_s: how long an unanswered request is repeated, s.
    """

    destination: str
    scratch: Path
    dtype: Dtype
    config: ModelConfig
    inputs: CheckInputs
    access: Access | None = None
    outage_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was handed back.

    Attributes:
        address: of the folder or bucket prefix.
        record: what is known of it by the address, for the commit log.
        weight_bytes: of all tensors.
        check: what the fresh process found.
        seconds: wall-clock time.
    """

    address: str
    record: ExportRecord
    weight_bytes: int
    check: CheckResult
    seconds: float


def export_model(sam3: Sam3Model, tokenizer: Tokenizer, facts: CardFacts, plan: ExportPlan) -> ExportResult:
    """Write `sam3` as a Hugging Face folder to `plan.destination`; nothing appears there unless the check passes.

    The caller has put the weights to export in place: averaged ones if there are any, text weights restored if they
    were released. One rank exports. The check runs on the CPU, one forward in this and one in the fresh process.

    Raises:
        ModelUnusable: weights are missing or not finite, or the reloaded model is another one.
        StorageDenied: the destination holds something else, refuses, or has no room.
        StorageUnavailable: the store does not answer.
    """
    started = time.monotonic()
    masks = facts.task == "segmentation"
    with staging(plan.destination, plan.scratch) as folder:
        state = rounded_state(sam3, plan.dtype)
        write_folder(folder, sam3, build_processor(tokenizer, facts.resolution), state=state, dtype=plan.dtype)
        on_cpu_as_is = plan.dtype == "float32" and next(sam3.parameters()).device.type == "cpu"
        reference = sam3 if on_cpu_as_is else rounded_model(sam3, state)
        expected = forward_outputs(reference, plan.inputs, plan.config, masks=masks)
        check = check_folder(folder, expected, plan.inputs, plan.config, masks=masks)
        _log.info("export checked: %d outputs, largest difference %g", check.num_outputs, check.largest_difference)
        address = str(parse_address(plan.destination))
        (folder / CARD).write_text(render_card(facts, address=address))
        write_manifest(folder, {"facts": facts.model_dump(mode="json"), "dtype": plan.dtype, "check": asdict(check)})
        record = export_record(folder, address=address)
        publish(folder, plan.destination, access=plan.access, outage_s=plan.outage_s)
    return ExportResult(
        address=address,
        record=record,
        weight_bytes=sum(tensor.nbytes for tensor in state.values()),
        check=check,
        seconds=time.monotonic() - started,
    )
