"""Imports of large libraries without the garbage collector between: torch and transformers make millions of objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the collector still while modules are imported, and leave what they have made out of later collections.

    What an import makes lives as long as the process, so that looking for garbage in it is in vain: for the trainer,
    about a seventh of the import's time. A collector that is switched off stays off.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
