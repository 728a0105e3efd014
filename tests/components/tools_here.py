"""What a test needs of a machine beyond the built servers."""

import os
from typing import NoReturn

import pytest


def need_tool(problem: str) -> NoReturn:
    """Fail in CI, and skip elsewhere, for what this machine lacks."""
    if os.environ.get("CI"):
        pytest.fail(problem)
    pytest.skip(problem)
