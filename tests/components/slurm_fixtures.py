"""Fixtures of a real SLURM site: one for the whole session. Whoever stops a part of it, or fills it, starts another."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from slurm_site import SiteSettings, SlurmMissing, SlurmSite
from tools_here import need_tool


@contextmanager
def running_slurm(settings: SiteSettings | None = None) -> Iterator[SlurmSite]:
    """Start a site, and end it again however the block is left; its folder has a short path, for a socket."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        try:
            site = SlurmSite(Path(name), settings)
        except SlurmMissing as error:
            need_tool(str(error))
        try:
            site.start()
            yield site
        finally:
            site.stop()


@pytest.fixture(scope="session")
def slurm_site() -> Iterator[SlurmSite]:
    """A site of two nodes with the partitions low and high."""
    with running_slurm() as site:
        yield site
