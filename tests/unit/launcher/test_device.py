"""Whether workers will compute on the CPU, as torch would say, but without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sam3ft_trainer.run.launcher import count_gpus, device
from sam3ft_trainer.run.launcher.device import has_gpu, runs_on_cpu, torch_build

CUDA = {"cuda": "13.0", "hip": None}


def test_this_machine_is_seen_as_torch_sees_it():
    assert torch_build()["cuda"] == torch.version.cuda
    assert runs_on_cpu("auto") == (not torch.cuda.is_available())
    assert runs_on_cpu("cpu")


def test_a_torch_for_the_cpu_finds_no_gpu_and_asks_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked"))

    assert not has_gpu({"cuda": None, "hip": None})


@pytest.mark.parametrize(("program", "found"), [("print(0)", False), ("print(2)", True), ("raise SystemExit(3)", True)])
def test_the_driver_s_count_decides_and_one_that_crashes_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, *, found: bool
):
    script = tmp_path / "count.py"
    script.write_text(program)
    monkeypatch.setattr(device, "_COUNT_GPUS", script)

    assert found == has_gpu(CUDA)


def test_a_driver_that_does_not_answer_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "count.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(device, "_COUNT_GPUS", script)

    assert has_gpu(CUDA, answer_s=0.3)


def test_a_torch_for_rocm_looks_for_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "_ROCM_DRIVER", tmp_path / "kfd")
    build = {"cuda": None, "hip": "7.0"}

    assert not has_gpu(build)
    (tmp_path / "kfd").touch()
    assert has_gpu(build)


class Driver:
    """libcuda, as far as it is asked; a machine without a GPU has none."""

    def __init__(self, *, starts: int = 0, devices: int = 2) -> None:
        self.starts, self.devices = starts, devices

    def cuInit(self, _flags: int) -> int:  # noqa: N802 - the library's name
        return self.starts

    def cuDeviceGetCount(self, found: object) -> int:  # noqa: N802 - the library's name
        found._obj.value = self.devices  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(("driver", "count"), [(Driver(), 2), (Driver(devices=0), 0), (Driver(starts=100), 0)])
def test_devices_are_counted_by_the_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver, count: int):
    monkeypatch.setattr(count_gpus.ctypes, "CDLL", lambda _name: driver)

    assert count == count_gpus.count_devices()


def test_the_launcher_is_imported_without_torch_and_numpy():
    program = "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'transformers', 'hydra')))\n"
    program += "from sam3ft_trainer.run.launcher.device import runs_on_cpu\n"
    program += "import sam3ft_trainer.run.launcher.__main__\n"
    program += "assert runs_on_cpu('cpu'); print('imported')"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ("imported\n", 0) == (answer.stdout, answer.returncode), answer.stderr
