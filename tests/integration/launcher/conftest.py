"""The fixture of real coordinators and launchers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from launcher_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder for one coordinator and its launchers; whatever the test leaves is killed."""
    site = Site(tmp_path)
    yield site
    site.close()
