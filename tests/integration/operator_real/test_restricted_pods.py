"""The pods that the API server has admitted where pods are restricted: none has a token, each has its policy."""

import json

import pytest
from control_plane import kubectl
from operator_site import OperatorProcess, Site

from sam3ft_launch.kubernetes import kinds

pytestmark = pytest.mark.timeout(240)


def test_no_pod_of_a_run_has_a_token_and_each_is_selected_by_one_policy(site: Site, operator: OperatorProcess) -> None:
    uid, _ = site.begin("blood")
    site.wait_for_pods(uid, role="coordinator", count=1)
    pods = site.children(kinds.POD, uid)
    volumes = [volume for pod in pods for volume in pod["spec"].get("volumes", [])]
    tokens = [volume["name"] for volume in volumes if "serviceAccountToken" in json.dumps(volume)]
    selectors = [it["spec"]["podSelector"]["matchLabels"] for it in site.children(kinds.NETWORK_POLICY, uid)]
    space = json.loads(kubectl(site.plane, "get", "namespace", site.namespace, "-o", "json"))

    assert {"preflight", "worker", "coordinator"} == {pod["metadata"]["labels"]["sam3ft.dev/role"] for pod in pods}
    assert "restricted" == space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert [] == tokens
    assert [False] * len(pods) == [pod["spec"]["automountServiceAccountToken"] for pod in pods]
    for pod in pods:
        assert 1 == sum(selector.items() <= pod["metadata"]["labels"].items() for selector in selectors)
