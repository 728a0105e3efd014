"""Host memory that goes back to the system when a tensor ends.

glibc maps blocks above a threshold on their own and gives them back when they are freed; smaller ones come from a heap
that only shrinks at its end. The threshold grows by itself, to the largest block that was ever freed, up to 32 MiB. At
1008 px the ViT's activations are 21 MB each: after the first one they come from the heap, where those that are kept
for backward pin the holes between them. One training step of the published size then takes 6.2 GB instead of 1.6.
"""

import ctypes
import sys

MAPPED_BYTES = 4 << 20
"""Blocks of at least this size are mapped on their own: the DETR parts' activations at 1008 px (5 MB) and larger. At
1 MiB those of small models would be as well, whose steps then take a fifth longer."""
_M_MMAP_THRESHOLD = -3
"""Number of the parameter in glibc's malloc.h; setting it also ends the threshold's growth."""


def map_large_blocks() -> bool:
    """Fix glibc's threshold for this process; call it before anything large is allocated.

    Returns:
        False where the C library has no such setting (not glibc); the memory plan then falls short of the truth.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES))
