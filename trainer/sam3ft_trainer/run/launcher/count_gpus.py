"""Print how many CUDA devices the driver has for this process: 0 without a driver; end with 1 where it refuses.

Run as a file by `python -I -S` in a process of its own: a driver can take seconds, or hang, and what it keeps open ends
with the process. It makes no CUDA context, and honours CUDA_VISIBLE_DEVICES.

    python -I -S count_gpus.py
"""

import ctypes

_NO_DEVICE = frozenset({34, 100})
"""CUDA_ERROR_STUB_LIBRARY and CUDA_ERROR_NO_DEVICE; others are those of a driver that has devices and cannot start."""


def count_devices() -> int:
    """Return the number of devices by libcuda's own count; 0 when there is no libcuda.

    Raises:
        SystemExit: the driver refuses; its code is in the message.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(found))
    if code in _NO_DEVICE:
        return 0
    if code != 0:
        raise SystemExit(f"libcuda answers with code {code}")
    return found.value


if __name__ == "__main__":
    print(count_devices())
