"""Fixtures of groups over several nodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from elastic_net import Network, need_namespaces
from elastic_site import Group

NUM_NODES = 4


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """Nodes that share the loopback; whatever the test leaves is killed."""
    group = Group(tmp_path)
    yield group
    group.close()


@pytest.fixture
def network() -> Iterator[Network]:
    """Four nodes and a hub, each in a namespace of its own."""
    need_namespaces()
    network = Network(NUM_NODES)
    yield network
    network.close()


@pytest.fixture
def far_group(tmp_path: Path, network: Network) -> Iterator[Group]:
    """Nodes in namespaces of their own, the coordinator in the hub."""
    group = Group(tmp_path, network)
    yield group
    group.close()
