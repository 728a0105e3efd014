"""A training step never asks the device for a value, but where it is known to: shown on the CPU, by the operations.

Every question from host to device (`bool(tensor)`, `.item()`, `nonzero`, a boolean index) is an operation that a
dispatch mode sees. On the CPU the optimizer asks; with CUDA the fused kernel reads the flag on the device.
"""

import importlib
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sam3ft_trainer.model.load import load_model
from sam3ft_trainer.run.step import StepResult

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}
MASKS = {torch.bool, torch.uint8}
OPTIMIZER = "_update"
"""The function that clips and updates."""


class Questions(TorchDispatchMode):
    """Notes the functions of the trainer that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name.startswith(("index", "_unsafe_index")) and isinstance(args[1], list | tuple) else ()
        if name in QUESTIONS or any(index is not None and index.dtype in MASKS for index in indices):
            own = [entry for entry in traceback.extract_stack() if "sam3ft_trainer" in entry.filename]
            self.asked.append(f"{own[-1].name} {name}" if own else f"autograd {name}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["detection-1-b2-none", "segmentation-8-b1-all"])
def test_forward_loss_and_backward_read_nothing_back_but_the_matching(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    cases, steps = (importlib.import_module(f"benchmarks.{module}") for module in ("gpu_cases", "gpu_steps"))
    device = torch.device("cpu")
    settings = cases.Settings("tiny-nano", 28, device, objects=2, warmup=1, steps=1, freeze=(), peak_tflops=None)
    case = cases.Case.parse(name)
    config = settings.config(case)
    loaded = load_model(config.model.uri, config.model, resolution=28, device=device, seed=0)
    run = steps.Steps(loaded, None, settings, case, config)

    with Questions() as questions:
        run._loop(1)

    # The counts are taken from the batch on the CPU, before it goes to the device.
    asked = {entry for entry in questions.asked if not entry.startswith(("local_counts", "<genexpr>"))}
    assert asked == {f"{OPTIMIZER} _local_scalar_dense"}


def test_a_result_is_copied_when_it_is_made_so_that_reading_it_waits_for_no_later_work() -> None:
    loss = torch.tensor(3.0)
    result = StepResult(
        step=0,
        loss=loss,
        terms={"loss_ce": torch.tensor(2.0)},
        grad_norm=torch.tensor(0.25),
        applied=torch.tensor(True),
        learning_rate=1e-4,
        num_images=1,
        image_ids=(7,),
        phrases=("cat",),
    )
    loss.fill_(-1.0)

    numbers = result.read()

    assert (numbers.loss, numbers.grad_norm, numbers.applied, numbers.terms) == (3.0, 0.25, True, {"loss_ce": 2.0})
