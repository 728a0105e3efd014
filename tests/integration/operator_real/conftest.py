"""What the tests of the operator on a real API server stand on."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane, kubectl
from operator_site import OperatorProcess, Site


@pytest.fixture
def site(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Site]:
    """A namespace with the operator's account."""
    with Site(cluster, namespace, tmp_path) as found:
        yield found


@pytest.fixture
def operator(site: Site) -> OperatorProcess:
    """The operator as it is shipped, running in the namespace and ready."""
    process = site.operator()
    process.wait_until_ready()
    return process


@pytest.fixture
def new_site(cluster: ControlPlane, tmp_path: Path) -> Iterator[Callable[[], Site]]:
    """Makes namespaces with the operator's account, as many as a test wants; they are deleted at its end."""
    made: list[str] = []

    def make() -> Site:
        name = f"life-{uuid.uuid4().hex[:10]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        cluster.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        made.append(name)
        folder = tmp_path / name
        folder.mkdir()
        return Site(cluster, name, folder)

    yield make
    if made:
        kubectl(cluster, "delete", "namespace", *made, "--wait=false")
