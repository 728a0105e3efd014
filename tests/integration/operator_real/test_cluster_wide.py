"""One operator for all namespaces, and one that may see all and is told one."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from control_plane import kubectl
from operator_site import Site
from rights import refused

from sam3ft_launch.kubernetes import kinds
from sam3ft_operator.rbac import ROLE, manifests

pytestmark = pytest.mark.timeout(240)
CHECKED = json.dumps({"code": 0, "reason": "Succeeded"})
DONE = json.dumps({"code": 0, "reason": "Succeeded", "step": 10, "checkpoint_step": 10})


@pytest.fixture
def wide(site: Site) -> Iterator[Site]:
    """A site whose account is bound in the whole cluster."""
    [binding] = [it for it in manifests(namespace=site.namespace) if it["kind"] == "ClusterRoleBinding"]
    binding["metadata"]["name"] = f"{ROLE}-{site.namespace}"
    kubectl(site.plane, "create", "-f", "-", stdin=json.dumps(binding))
    yield site
    kubectl(site.plane, "delete", "clusterrolebinding", binding["metadata"]["name"])


def begin(site: Site) -> tuple[str, list[dict[str, Any]]]:
    """Apply a resource, let its check pass, and return its uid and its worker."""
    uid = site.apply("blood")["metadata"]["uid"]
    [check] = site.wait_for_pods(uid, role="preflight", count=1)
    site.end_pod(check, message=CHECKED)
    return uid, site.wait_for_pods(uid, role="worker", count=1)


def test_runs_of_one_name_in_two_namespaces_live_side_by_side(wide: Site, new_site: Callable[[], Site]) -> None:
    wide.scope = ("--all-namespaces",)
    wide.operator().wait_until_ready()
    labs = (new_site(), new_site())
    runs = [begin(lab) for lab in labs]
    labs[0].end_pod(runs[0][1][0], message=DONE)
    labs[0].wait_for_phase("blood", "Succeeded")
    other = labs[1].resource("blood")["status"]["phase"]
    labs[1].end_pod(runs[1][1][0], message=DONE)
    labs[1].wait_for_phase("blood", "Succeeded")

    assert "Succeeded" != other
    for lab, (uid, _) in zip(labs, runs, strict=True):
        assert 3 == len(lab.children(kinds.NETWORK_POLICY, uid))
    assert set() == refused(wide.plane, user=f":{wide.namespace}:{ROLE}")


def test_an_operator_of_one_namespace_never_looks_into_another(wide: Site, new_site: Callable[[], Site]) -> None:
    other = new_site()
    other.apply("blood")
    wide.operator().wait_until_ready()
    _, [worker] = begin(wide)
    wide.end_pod(worker, message=DONE)
    wide.wait_for_phase("blood", "Succeeded")

    assert "status" not in other.resource("blood")
    assert [] == [call for call in wide.calls() if call.resource and call.namespace != wide.namespace]
