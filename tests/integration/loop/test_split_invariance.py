"""One optimizer step is a function of its global batch, however it is split over processes and micro-batches."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

WORKER = Path(__file__).parent / "split_worker.py"
STEPS = 5
GLOBAL_BATCH = 4
"""Seven images in windows of four: every second step is short, and three ranks never share it evenly."""
SPLITS = [(1, 2), (1, 1), (2, 4), (2, 1), (3, 1), (3, 2)]
"""(processes, images per micro-batch); the reference is one process with the whole batch at once."""


@dataclass(frozen=True)
class Outcome:
    parameters: dict[str, Tensor]
    initial: dict[str, Tensor]
    ids: list[list[int]]
    losses: list[float]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run(folder: Path, world_size: int, micro_batch: int, dtype: str, task: str) -> Outcome:
    out = folder / f"{world_size}-{micro_batch}.safetensors"
    port = free_port()
    command = [sys.executable, str(WORKER), str(out), str(STEPS), str(GLOBAL_BATCH), str(micro_batch), dtype, task]
    environment = os.environ | {
        "PYTORCH_JIT": "0",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
    }
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world_size)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=280)
        assert rank.returncode == 0, errors
    tensors = load_file(out)
    report = json.loads(out.with_suffix(".json").read_text())
    return Outcome(
        {name: tensor for name, tensor in tensors.items() if not name.startswith("initial.")},
        {name.removeprefix("initial."): tensor for name, tensor in tensors.items() if name.startswith("initial.")},
        report["ids"],
        report["losses"],
    )


@pytest.fixture(scope="module", params=["detection", "segmentation"])
def double(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Outcome]:
    folder = tmp_path_factory.mktemp("double")
    return folder, request.param, run(folder, 1, GLOBAL_BATCH, "float64", request.param)


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "micro_batch"), SPLITS)
def test_in_float64_every_split_gives_the_same_parameters_and_images(
    double: tuple[Path, str, Outcome], world_size: int, micro_batch: int
) -> None:
    folder, task, whole = double

    split = run(folder, world_size, micro_batch, "float64", task)

    assert whole.ids == split.ids
    assert whole.losses == pytest.approx(split.losses, rel=1e-9)
    worst = max(float((whole.parameters[name] - split.parameters[name]).abs().max()) for name in whole.parameters)
    assert worst <= 1e-9
    assert any(not torch.equal(whole.parameters[name], whole.initial[name]) for name in whole.parameters)


@pytest.mark.slow
def test_in_float32_a_split_differs_by_a_ten_thousandth_of_the_movement(tmp_path: Path) -> None:
    whole = run(tmp_path, 1, GLOBAL_BATCH, "float32", "detection")

    split = run(tmp_path, 2, 1, "float32", "detection")

    difference = sum(float((whole.parameters[n] - split.parameters[n]).square().sum()) for n in whole.parameters)
    movement = sum(float((whole.parameters[n] - whole.initial[n]).square().sum()) for n in whole.parameters)
    assert difference**0.5 <= 1e-4 * movement**0.5
