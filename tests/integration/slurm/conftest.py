"""Runs on the site of the session, and on sites of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_runs import Runs
from slurm_site import SlurmSite


@pytest.fixture
def runs(slurm_site: SlurmSite, tmp_path: Path) -> Iterator[Runs]:
    """A folder for runs; what a test leaves is ended."""
    runs = Runs(slurm_site, tmp_path)
    yield runs
    runs.close()
