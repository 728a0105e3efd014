"""Fixtures of a real control plane, for every test: one for the whole session, a namespace for each test."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, kubectl
from control_planes import shared
from definitions import apply_crds
from kubernetes import client, config
from kueue import start_kueue
from machine import MachineUnfit
from real_nodes import ARGUMENTS, RealNodes
from rights import refused
from tools_here import need_tool

from components import ComponentMissing
from sam3ft_operator.rbac import ROLE

NODES = 4


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with our CRD and a few nodes that kwok plays. Whoever stops or pauses a part starts another."""
    plane = ControlPlane(tmp_path_factory.mktemp("cluster"), definitions=apply_crds)
    try:
        shared(plane).start()
        plane.start_kwok(nodes=NODES)
        yield plane
        assert_nothing_refused(plane)
    except ComponentMissing as error:
        need_tool(str(error))
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def api(cluster: ControlPlane) -> client.ApiClient:
    """A client of the administrator."""
    return admin_client(cluster)


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    """A fresh namespace that enforces restricted pods; it is emptied and left to the controllers afterwards."""
    yield from _fresh_namespace(cluster)


def assert_nothing_refused(plane: ControlPlane) -> None:
    """Check that no operator has asked for anything in the whole session that its rules do not allow."""
    missing = refused(plane, user=f":{ROLE}") if plane.audit_log.exists() else set()
    assert set() == missing, f"the operator's rules lack {sorted(missing)}; see sam3ft_operator/rbac.py"


def admin_client(plane: ControlPlane) -> client.ApiClient:
    """Return a client that may do everything."""
    return client_of(plane.admin_kubeconfig)


def client_of(kubeconfig: Path) -> client.ApiClient:
    """Return a client for a kubeconfig."""
    api_client: Any = config.new_client_from_config(config_file=str(kubeconfig))
    return api_client


@pytest.fixture(scope="session")
def kueue_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Another control plane, with Kueue: where its webhooks are, every Job and pod passes them."""
    plane = ControlPlane(tmp_path_factory.mktemp("kueue-cluster"), definitions=apply_crds)
    try:
        shared(plane).start()
        plane.start_kwok(nodes=NODES)
        start_kueue(plane)
        yield plane
        assert_nothing_refused(plane)
    except ComponentMissing as error:
        need_tool(str(error))
    finally:
        plane.stop()


@dataclass(frozen=True)
class RealCluster:
    """A control plane whose nodes `real-0` and `real-1` run what is scheduled there."""

    plane: ControlPlane
    nodes: RealNodes


@pytest.fixture(scope="session")
def kubelet_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A control plane of its own with two real nodes; whoever strikes one of them heals it before the test ends."""
    folder = tmp_path_factory.mktemp("real")
    nodes = RealNodes(folder, count=2)
    try:
        with ControlPlane(folder, definitions=apply_crds, arguments=ARGUMENTS) as plane, nodes.of(plane):
            yield RealCluster(plane, nodes)
    except (ComponentMissing, MachineUnfit) as error:
        need_tool(str(error))


@pytest.fixture
def real_namespace(kubelet_cluster: RealCluster) -> Iterator[str]:
    """A fresh namespace on the real nodes that enforces restricted pods."""
    yield from _fresh_namespace(kubelet_cluster.plane)


def _fresh_namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "kubernetes.io/metadata.name": name}
    plane.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield name
    kubectl(plane, "delete", "namespace", name, "--wait=false", "--ignore-not-found")
