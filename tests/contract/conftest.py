"""The backends that the contract is tried on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_bench import Bench, local_bench, slurm_bench
from slurm_site import SlurmSite


@pytest.fixture(params=["local", "slurm"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A backend without runs; whatever a test leaves running is ended."""
    if request.param == "local":
        bench = local_bench(tmp_path)
    else:
        site: SlurmSite = request.getfixturevalue("slurm_site")
        bench = slurm_bench(tmp_path, site)
    yield bench
    for handle in bench.handles:
        bench.backend.delete(handle)
