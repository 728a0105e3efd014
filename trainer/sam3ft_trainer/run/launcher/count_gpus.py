"""Print how many CUDA devices the driver has for this process: 0 without a driver, or where it refuses.

Run as a file by `python -I -S` in a process of its own: a driver can take seconds, or hang, and what it keeps open ends
with the process. It makes no CUDA context, and honours CUDA_VISIBLE_DEVICES.

    python -I -S count_gpus.py
"""

import ctypes


def count_devices() -> int:
    """Return the number of devices by libcuda's own count; 0 when there is no libcuda, or it does not start."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(found)) != 0:
        return 0
    return found.value


if __name__ == "__main__":
    print(count_devices())
