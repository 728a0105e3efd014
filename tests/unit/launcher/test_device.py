"""Whether workers will compute on the CPU, as torch would say, but without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sam3ft_trainer.run.launcher import count_gpus, device
from sam3ft_trainer.run.launcher.device import has_gpu, runs_on_cpu, torch_build

CUDA = {"cuda": "13.0", "hip": None}


def silent(text: str) -> None:
    pytest.fail(text)


def test_this_machine_is_seen_as_torch_sees_it():
    assert torch_build()["cuda"] == torch.version.cuda
    assert runs_on_cpu("auto", silent) == (not torch.cuda.is_available())
    assert runs_on_cpu("cpu", silent)


def test_a_torch_for_the_cpu_finds_no_gpu_and_asks_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("asked"))

    assert not has_gpu({"cuda": None}, silent)


@pytest.mark.parametrize(("program", "found"), [("print(0)", False), ("print(2)", True), ("print('shim\\n2')", True)])
def test_the_driver_s_count_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, *, found: bool):
    script = tmp_path / "count.py"
    script.write_text(program)
    monkeypatch.setattr(device, "_COUNT_GPUS", script)

    assert found == has_gpu(CUDA, silent)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit('libcuda answers with code 802')", "code 802"),
        ("import os; os.kill(os.getpid(), 11)", "exit code -11"),
        ("print('two')", "exit code 0"),
        ("import time; time.sleep(60)", "within 1 s"),
    ],
)
def test_a_driver_that_gives_no_answer_is_there_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, why: str
):
    script = tmp_path / "count.py"
    script.write_text(program)
    monkeypatch.setattr(device, "_COUNT_GPUS", script)
    said: list[str] = []

    assert has_gpu(CUDA, said.append, answer_s=1.0)
    assert 1 == len(said)
    assert why in said[0]


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


@pytest.mark.parametrize("code", [2, 802, 803, 999])
def test_a_driver_that_refuses_ends_with_its_code(monkeypatch: pytest.MonkeyPatch, code: int):
    monkeypatch.setattr(count_gpus.ctypes, "CDLL", lambda _name: Driver(starts=code))

    with pytest.raises(SystemExit, match=f"code {code}"):
        count_gpus.count_devices()


def test_the_launcher_is_imported_without_torch_and_numpy():
    program = "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'transformers', 'hydra')))\n"
    program += "from sam3ft_trainer.run.launcher.device import runs_on_cpu\n"
    program += "import sam3ft_trainer.run.launcher.__main__\n"
    program += "assert runs_on_cpu('cpu', print); print('imported')"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ("imported\n", 0) == (answer.stdout, answer.returncode), answer.stderr
