"""The backends that the contract is tried on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_bench import Bench, local_bench


@pytest.fixture(params=[pytest.param(local_bench, id="local")])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A backend without runs; whatever a test leaves running is ended."""
    bench: Bench = request.param(tmp_path)
    yield bench
    for handle in bench.handles:
        bench.backend.delete(handle)
