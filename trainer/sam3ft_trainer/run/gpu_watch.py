"""What NVIDIA's management library says of the device at work: its use, memory, power and temperature.

Read once a second in a thread of its own, because some of the calls take milliseconds, and because a single look at the
end of an interval would meet the device between two steps. A device that cannot be watched is no failure.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import torch

EVERY_S = 1.0
"""Between two readings; the driver itself averages the use over a sixth of a second to a second."""
FRESH_S = 3 * EVERY_S
"""For so long a reading stands for intervals in which there was none."""
FIGURES = ("gpu_use", "gpu_used_bytes", "gpu_power_w", "gpu_celsius")
"""Names of the figures, as `RankFigures` has them."""
_AVERAGED = frozenset({"gpu_use", "gpu_power_w"})


@dataclass(slots=True)
class Readings:
    """Readings since they were last taken; from any thread.

    Attributes:
        read: one reading of `FIGURES`; a figure that the device does not have is None.
        clock: monotonic seconds.
    """

    read: Callable[[], dict[str, float | None]]
    clock: Callable[[], float] = time.monotonic
    _found: dict[str, list[float]] = field(default_factory=dict)
    _newest: dict[str, float] = field(default_factory=dict)
    _newest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        """Read once."""
        reading = {name: value for name, value in self.read().items() if value is not None}
        with self._lock:
            self._newest, self._newest_s = reading, self.clock()
            for name, value in reading.items():
                self._found.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """Return the mean use and power and the most memory and heat since the last call, those that are known.

        Where nothing was read since then, the newest reading once more while it is fresh: log intervals may be shorter
        than the time between readings, and a series that comes and goes is no use to anybody.
        """
        with self._lock:
            found, self._found = self._found, {}
            if not found:
                return dict(self._newest) if self.clock() - self._newest_s < FRESH_S else {}
        return {name: sum(values) / len(values) if name in _AVERAGED else max(values) for name, values in found.items()}


class GpuWatch:
    """Reads the figures of one device until it is closed."""

    def __init__(self, readings: Readings, *, every_s: float = EVERY_S) -> None:
        """Begin to read.

        Args:
            readings: of the device.
            every_s: between two readings, s.
        """
        self._readings, self._every_s = readings, every_s
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-watch", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, device: torch.device) -> Self:
        """Watch a CUDA device.

        Raises:
            CannotWatch: it cannot be watched; says why.
        """
        return cls(Readings(nvml_reader(f"GPU-{torch.cuda.get_device_properties(device).uuid}")))

    def take(self) -> dict[str, float]:
        """Return what was read of late, as `Readings.take`; empty when that is nothing."""
        return self._readings.take()

    def close(self) -> None:
        """Read no more; waits for nothing."""
        self._ends.set()

    def _run(self) -> None:
        while not self._ends.wait(self._every_s):
            self._readings.look()


class CannotWatch(Exception):
    """The device cannot be watched; its text says why."""


def nvml_reader(uuid: str) -> Callable[[], dict[str, float | None]]:
    """Return what reads the figures of a device once.

    Args:
        uuid: as nvidia-smi shows it, `GPU-...`.

    Raises:
        CannotWatch: the management library or its Python module is not there, or does not know the device.
    """
    try:
        import pynvml  # noqa: PLC0415 - only where there is a CUDA device; the GPU benchmarks run without it

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except ImportError:
        raise CannotWatch("the package nvidia-ml-py is not installed") from None
    except Exception as error:  # the module makes its classes as they are raised
        raise CannotWatch(f"NVML: {error}") from error

    def ask(call: Callable[..., Any], *more: Any) -> Any:
        try:
            return call(handle, *more)
        except pynvml.NVMLError:  # a part of a device (MIG) has no use of its own, a virtual one no power
            return None

    def read() -> dict[str, float | None]:
        use = ask(pynvml.nvmlDeviceGetUtilizationRates)
        # Only the second form leaves out what the driver keeps to itself, as nvidia-smi does: half a GiB on an H100.
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, pynvml.nvmlMemory_v2) or ask(pynvml.nvmlDeviceGetMemoryInfo)
        milliwatts = ask(pynvml.nvmlDeviceGetPowerUsage)
        return {
            "gpu_use": None if use is None else use.gpu / 100,
            "gpu_used_bytes": None if memory is None else int(memory.used),
            "gpu_power_w": None if milliwatts is None else milliwatts / 1000,
            "gpu_celsius": ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
        }

    return read
