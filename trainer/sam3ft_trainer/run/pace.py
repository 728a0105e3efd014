"""How fast a device is assumed to train, where nothing has been measured yet; estimates, and they say so.

A pass takes `overhead_s + FLOPs / rate`. The rate is the device's dense peak, from its maker's data sheet, times the
share of it that training is assumed to reach. For CPUs it was measured: one core of a server CPU (2023, AVX-512) ran
updates of `preset:tiny` at 27 GFLOP/s in fp32 and 20 in bf16, and one of 0.3 GFLOP took 0.04 s longer than that.
"""

import re
from dataclasses import dataclass

from sam3ft_api.training import Precision

CPU_CORE_FLOPS = {"fp32": 25e9, "bf16": 20e9, "fp16": 5e9}
"""FLOP/s of one core."""
CPU_OVERHEAD_S = 0.04
GPU_OVERHEAD_S = 0.1
"""Starting the kernels of one pass; it only counts for small models."""
GPU_SHARE = 0.35
"""Of the peak."""
FP32_SHARE = 1 / 15
"""Of the 16-bit tensor peak, without TF32, as on A100 and H100."""
UNKNOWN_PEAK = 100e12
GPU_PEAKS = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("RTX 6000 Ada", 364e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("A6000", 155e12),
    ("L4", 121e12),
    ("V100", 125e12),
    ("T4", 65e12),
)
"""Dense 16-bit tensor FLOP/s by words of the device's name; the first that fits counts."""


@dataclass(frozen=True, slots=True)
class AssumedPace:
    """A rate and where it comes from.

    Attributes:
        flops_per_s: of one process.
        overhead_s: of one pass.
        basis: one sentence for people.
    """

    flops_per_s: float
    overhead_s: float
    basis: str

    def pass_s(self, flops: float) -> float:
        """Return the seconds of one pass of `flops` floating-point operations."""
        return self.overhead_s + flops / self.flops_per_s


def cpu_pace(precision: Precision, *, threads: int) -> AssumedPace:
    """Return the pace of a process with so many CPU threads, one on each core."""
    per_core = CPU_CORE_FLOPS[precision]
    basis = f"an assumed {per_core / 1e9:.0f} GFLOP/s for each of {threads} CPU threads in {precision}"
    return AssumedPace(per_core * threads, CPU_OVERHEAD_S, basis)


def gpu_pace(name: str, precision: Precision) -> AssumedPace:
    """Return the pace of a CUDA device, by its name."""
    peak = _tensor_peak(name)
    source = f"the 16-bit peak of {name}" if peak is not None else f"an assumed peak, as {name} is not in the table"
    rate = (peak or UNKNOWN_PEAK) * GPU_SHARE * (FP32_SHARE if precision == "fp32" else 1.0)
    share = f"{100 * GPU_SHARE:.0f} % of {source}" + (" over 15 for fp32" if precision == "fp32" else "")
    return AssumedPace(rate, GPU_OVERHEAD_S, f"an assumed {rate / 1e12:.1f} TFLOP/s ({share})")


def gpu_peak(name: str, precision: Precision) -> float | None:
    """Return the FLOP/s that a CUDA device can reach in a precision, by its name; None for one that is not known.

    A part of a device (MIG) has the name of the whole, and no peak that is known.
    """
    peak = None if "MIG" in name else _tensor_peak(name)
    return None if peak is None else peak * (FP32_SHARE if precision == "fp32" else 1.0)


def _tensor_peak(name: str) -> float | None:
    return next((peak for words, peak in GPU_PEAKS if re.search(rf"\b{words}\b", name)), None)
