"""What the tests of the chart stand on."""

from pathlib import Path

import pytest
from chart_bench import Helm
from tools_here import need_binary


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """The helm that was built from its module."""
    return need_binary("helm")


@pytest.fixture
def helm(helm_program: Path, tmp_path: Path) -> Helm:
    """Helm without a cluster."""
    return Helm(helm_program, tmp_path)
