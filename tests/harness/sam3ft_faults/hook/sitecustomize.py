"""Read by every Python process that has this folder on PYTHONPATH: puts the fault plans of the environment in force."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs each process 10 ms
_HARNESS = os.path.dirname(os.path.dirname(_HERE))  # noqa: PTH120

if os.environ.get("SAM3FT_FAULT_PLAN"):
    sys.path.append(_HARNESS)
    from sam3ft_faults.installing import install

    install(os.environ)

_next = PathFinder.find_spec("sitecustomize", [folder for folder in sys.path if os.path.abspath(folder) != _HERE])  # noqa: PTH100
if _next is not None and _next.loader is not None:
    _next.loader.exec_module(module_from_spec(_next))
