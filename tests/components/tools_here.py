"""What a test needs of a machine beyond the built servers."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from components import ComponentMissing, binary


def need_tool(problem: str) -> NoReturn:
    """Fail in CI, and skip elsewhere, for what this machine lacks."""
    if os.environ.get("CI"):
        pytest.fail(problem)
    pytest.skip(problem)


def need_binary(name: str) -> Path:
    """Return the program of a component of this name; where it is not built, as `need_tool`."""
    try:
        return binary(name)
    except ComponentMissing as error:
        need_tool(str(error))
