"""One optimizer step is a function of its global batch, however it is split over processes and micro-batches."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ports import free_port
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.timeout(900)

WORKER = Path(__file__).parent / "split_worker.py"
TASKS = ("detection", "segmentation")
WHOLE = 4
"""Images of the global batch: the reference is one process that takes it at once."""
SPLITS = [(1, 2), (1, 1), (2, 4), (2, 1), (3, 1), (3, 2)]
"""(processes, images per micro-batch)"""


@dataclass(frozen=True)
class Outcome:
    parameters: dict[str, Tensor]
    initial: dict[str, Tensor]
    ids: list[list[int]]
    losses: list[float]


def run_world(folder: Path, world_size: int) -> None:
    micro_batches = {size for world, size in SPLITS if world == world_size} | ({WHOLE} if world_size == 1 else set())
    cases = [(task, "float64", size) for task in TASKS for size in sorted(micro_batches)]
    if world_size < 3:
        cases.append(("detection", "float32", WHOLE if world_size == 1 else 1))
    environment = os.environ | {
        "PYTORCH_JIT": "0",
        "MKL_CBWR": "AUTO,STRICT",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), json.dumps(cases)],
            env=environment | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    outputs = [rank.communicate(timeout=280)[1] for rank in ranks]
    assert [0] * world_size == [rank.returncode for rank in ranks], "\n".join(outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("splits")
    for world_size in (1, 2, 3):
        run_world(path, world_size)
    return path


def read(folder: Path, task: str, dtype: str, world_size: int, micro_batch: int) -> Outcome:
    path = folder / f"{task}-{dtype}-{world_size}-{micro_batch}.safetensors"
    tensors = load_file(path)
    report = json.loads(path.with_suffix(".json").read_text())
    return Outcome(
        {name: tensor for name, tensor in tensors.items() if not name.startswith("initial.")},
        {name.removeprefix("initial."): tensor for name, tensor in tensors.items() if name.startswith("initial.")},
        report["ids"],
        report["losses"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("world_size", "micro_batch"), SPLITS)
def test_in_float64_every_split_gives_the_same_parameters_and_images(
    folder: Path, task: str, world_size: int, micro_batch: int
) -> None:
    whole = read(folder, task, "float64", 1, WHOLE)

    split = read(folder, task, "float64", world_size, micro_batch)

    assert whole.ids == split.ids
    assert whole.losses == pytest.approx(split.losses, rel=1e-9)
    worst = max(float((whole.parameters[name] - split.parameters[name]).abs().max()) for name in whole.parameters)
    assert worst <= 1e-9
    moved = [name for name in whole.parameters if not torch.equal(whole.parameters[name], whole.initial[name].double())]
    assert len(moved) > 200


@pytest.mark.slow
def test_in_float32_a_split_differs_by_a_ten_thousandth_of_the_movement(folder: Path) -> None:
    whole = read(folder, "detection", "float32", 1, WHOLE)

    split = read(folder, "detection", "float32", 2, 1)

    difference = sum(float((whole.parameters[n] - split.parameters[n]).square().sum()) for n in whole.parameters)
    movement = sum(float((whole.parameters[n] - whole.initial[n]).square().sum()) for n in whole.parameters)
    assert difference**0.5 <= 1e-4 * movement**0.5
