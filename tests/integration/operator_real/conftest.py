"""What the tests of the operator on a real API server stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane
from operator_site import Site


@pytest.fixture
def site(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Site]:
    """A namespace with the operator's account."""
    with Site(cluster, namespace, tmp_path) as found:
        yield found
