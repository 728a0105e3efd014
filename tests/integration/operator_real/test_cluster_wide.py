"""One operator for all namespaces, and one that may see all and is told one."""

import json
from collections.abc import Callable, Iterator

import pytest
from control_plane import kubectl
from operator_site import ONE_NODE, Site
from rights import refused

from sam3ft_launch.kubernetes import kinds
from sam3ft_operator.rbac import ROLE, manifests

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def wide(site: Site) -> Iterator[Site]:
    """A site whose account is bound in the whole cluster."""
    [binding] = [it for it in manifests(namespace=site.namespace) if it["kind"] == "ClusterRoleBinding"]
    binding["metadata"]["name"] = f"{ROLE}-{site.namespace}"
    kubectl(site.plane, "create", "-f", "-", stdin=json.dumps(binding))
    yield site
    kubectl(site.plane, "delete", "clusterrolebinding", binding["metadata"]["name"])


def test_runs_of_one_name_in_two_namespaces_live_side_by_side(wide: Site, new_site: Callable[[], Site]) -> None:
    wide.scope = ("--all-namespaces",)
    wide.operator().wait_until_ready()
    labs = (new_site(), new_site())
    (first, first_workers), (second, second_workers) = [lab.begin("blood", workers=ONE_NODE) for lab in labs]
    labs[0].finish("blood", first_workers)
    other = labs[1].resource("blood")["status"]["phase"]
    labs[1].finish("blood", second_workers)

    assert "Succeeded" != other
    for lab, uid in zip(labs, (first, second), strict=True):
        assert 3 == len(lab.children(kinds.NETWORK_POLICY, uid))
    assert set() == refused(wide.plane, user=wide.user)


def test_an_operator_of_one_namespace_never_looks_into_another(wide: Site, new_site: Callable[[], Site]) -> None:
    other = new_site()
    other.apply("blood")
    wide.operator().wait_until_ready()
    _, workers = wide.begin("blood", workers=ONE_NODE)
    wide.finish("blood", workers)

    assert "status" not in other.resource("blood")
    assert [] == [call for call in wide.calls() if call.resource and call.namespace != wide.namespace]
