"""What is read of a device: none is where the tests run, so NVML's calls are replaced; its module is the real one."""

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from sam3ft_api.worker import RankFigures
from sam3ft_trainer.run.gpu_watch import FIGURES, FRESH_S, CannotWatch, GpuWatch, Readings, nvml_reader
from sam3ft_trainer.run.meter import Meter

UUID = "GPU-f6a1c6de-3b5e-4c53-9f0d-6a3c2c7b9d11"
RESERVED = 480 << 20


def refuse(*_: Any) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def memory_info(_: Any, version: int | None = None) -> SimpleNamespace:
    """As drivers since 510 answer: the older form counts what the driver keeps to itself as used."""
    return SimpleNamespace(used=(41 << 30) + (0 if version == pynvml.nvmlMemory_v2 else RESERVED))


def older_memory_info(handle: Any, version: int | None = None) -> SimpleNamespace:
    if version is not None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    return memory_info(handle)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace calls of the library by name."""

    def replaced(**calls: Any) -> None:
        for name, call in calls.items():
            monkeypatch.setattr(pynvml, name, call)

    replaced(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle of {uuid}",
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=87 if handle == f"handle of {UUID}" else 0),
        nvmlDeviceGetMemoryInfo=memory_info,
        nvmlDeviceGetPowerUsage=lambda _: 612_500,
        nvmlDeviceGetTemperature=lambda _, sensor: {pynvml.NVML_TEMPERATURE_GPU: 61}[sensor],
    )
    return replaced


@pytest.mark.usefixtures("nvml")
def test_a_device_is_read_in_the_units_of_its_figures() -> None:
    reading = nvml_reader(UUID)()

    assert {"gpu_use": 0.87, "gpu_used_bytes": 41 << 30, "gpu_power_w": 612.5, "gpu_celsius": 61} == reading
    assert set(FIGURES) == set(reading) <= set(RankFigures.model_fields)


def test_what_a_device_does_not_have_is_left_out(nvml: Callable[..., None]) -> None:
    nvml(nvmlDeviceGetUtilizationRates=refuse, nvmlDeviceGetPowerUsage=refuse)
    readings = Readings(nvml_reader(UUID))

    readings.look()

    assert {"gpu_used_bytes": 41 << 30, "gpu_celsius": 61} == readings.take()


def test_an_older_driver_tells_memory_in_the_older_form(nvml: Callable[..., None]) -> None:
    nvml(nvmlDeviceGetMemoryInfo=older_memory_info)

    assert (41 << 30) + RESERVED == nvml_reader(UUID)()["gpu_used_bytes"]


def test_use_and_power_are_averaged_memory_and_heat_are_the_most() -> None:
    each = iter([(0.5, 10, 100.0, 50), (1.0, 30, 300.0, 70), (0.0, 20, None, 60)])
    readings = Readings(lambda: dict(zip(FIGURES, next(each), strict=True)))
    for _ in range(3):
        readings.look()

    assert {"gpu_use": 0.5, "gpu_used_bytes": 30, "gpu_power_w": 200.0, "gpu_celsius": 70} == readings.take()


def test_a_reading_stands_for_intervals_that_are_too_short_for_one_while_it_is_fresh() -> None:
    now_s = 100.0
    each = iter([(0.5, 30, 300.0, 70), (0.25, 10, 100.0, 50)])
    readings = Readings(lambda: dict(zip(FIGURES, next(each), strict=True)), clock=lambda: now_s)
    assert {} == readings.take(), "nothing was read yet"
    readings.look()
    readings.look()
    readings.take()

    newest = {"gpu_use": 0.25, "gpu_used_bytes": 10, "gpu_power_w": 100.0, "gpu_celsius": 50}
    now_s += FRESH_S / 2
    assert newest == readings.take()
    assert newest == readings.take()
    now_s += FRESH_S / 2
    assert {} == readings.take()


def test_a_machine_without_the_library_or_the_device_says_so(
    nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml(nvmlDeviceGetHandleByUUID=lambda _: (_ for _ in ()).throw(pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)))
    with pytest.raises(CannotWatch, match="NVML: Not Found"):
        nvml_reader(UUID)
    nvml(nvmlInit=lambda: (_ for _ in ()).throw(pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)))
    with pytest.raises(CannotWatch, match="NVML Shared Library Not Found"):
        nvml_reader(UUID)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(CannotWatch, match="nvidia-ml-py is not installed"):
        nvml_reader(UUID)


def test_this_machine_has_no_device() -> None:
    if torch.cuda.is_available():
        assert set(FIGURES) >= set(nvml_reader(f"GPU-{torch.cuda.get_device_properties(0).uuid}")())
    else:
        with pytest.raises(CannotWatch, match="NVML"):
            nvml_reader(UUID)


@pytest.mark.usefixtures("nvml")
def test_a_watched_device_shows_in_the_share_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=UUID.removeprefix("GPU-")))
    looked, look = threading.Event(), Readings.look

    def tell(self: Readings) -> None:
        look(self)
        looked.set()

    monkeypatch.setattr(Readings, "look", tell)
    watch = GpuWatch(Readings(nvml_reader(UUID)), every_s=0.01)
    assert looked.wait(30)
    watch.close()
    watch._thread.join(30)
    told = Meter(device=torch.device("cpu"), watch=watch).share({}, rank=0)

    assert (0.87, 612.5) == (told["gpu_use"], told["gpu_power_w"])
    assert not watch._thread.is_alive()
    assert isinstance(GpuWatch.of(torch.device("cuda", 0)), GpuWatch)
