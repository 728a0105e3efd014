"""Pods on real nodes: they run restricted, find each other, end as told, and outlive what happens to their kubelet."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import RealCluster
from control_plane import kubectl
from machine import CGROUPS, MachineUnfit, require_machine, sweep, tag_of
from oci_image import PROBE
from policy_watch import num_dropped
from tools_here import need_tool
from waiting import wait_for, wait_until

from components import ComponentMissing, binary

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
"""They take networks and cgroups of the machine itself: for `make soak`, until more machines have been seen."""
SAFE = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod(name: str, node: str, *arguments: str, **container: Any) -> dict[str, Any]:
    main = {"name": "main", "image": PROBE, "securityContext": SAFE, "args": list(arguments) or None, **container}
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [main], "securityContext": security, "restartPolicy": "Never"}
    spec |= {"nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 2}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def create(cluster: RealCluster, namespace: str, *documents: dict[str, Any]) -> None:
    for document in documents:
        kubectl(cluster.plane, "create", "-n", namespace, "-f", "-", stdin=json.dumps(document))


def read(cluster: RealCluster, namespace: str, name: str) -> Any:
    return json.loads(cluster.plane.get(f"/api/v1/namespaces/{namespace}/pods/{name}"))


def wait_for_running(cluster: RealCluster, namespace: str, *names: str) -> None:
    pods = [f"pod/{name}" for name in names]
    kubectl(cluster.plane, "wait", "-n", namespace, "--for=condition=Ready", *pods, "--timeout=60s")


def how_it_ended(cluster: RealCluster, namespace: str, name: str) -> dict[str, Any]:
    def ended() -> Any:
        states = read(cluster, namespace, name)["status"].get("containerStatuses", [])
        return states and states[0]["state"].get("terminated")

    found: dict[str, Any] = wait_for("the container's end", ended, within_s=60)
    return found


def test_a_restricted_pod_serves_across_nodes_by_address_of_the_service_with_log_and_exec(
    kubelet_cluster: RealCluster, real_namespace: str
) -> None:
    create(kubelet_cluster, real_namespace, pod("web", "real-0"), pod("asks", "real-1"))
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    create(
        kubelet_cluster,
        real_namespace,
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec},
    )
    wait_for_running(kubelet_cluster, real_namespace, "web", "asks")
    service = json.loads(kubelet_cluster.plane.get(f"/api/v1/namespaces/{real_namespace}/services/web"))
    asks = ["exec", "-n", real_namespace, "asks", "--", "/probe", "get"]

    def answer(url: str) -> str:
        try:
            return kubectl(kubelet_cluster.plane, *asks, url)
        except subprocess.CalledProcessError:
            return ""  # kube-proxy hears of the Service a little later

    assert "web" == wait_for("the Service", lambda: answer(f"http://{service['spec']['clusterIP']}/"))
    assert "web" == wait_for("its name", lambda: answer(f"http://web.{real_namespace}.svc.cluster.local/"))
    assert "serving as web" in kubectl(kubelet_cluster.plane, "logs", "-n", real_namespace, "web")


def test_exit_code_and_memory_kill_are_told(kubelet_cluster: RealCluster, real_namespace: str) -> None:
    limited = pod("greedy", "real-1", "allocate", "200", resources={"limits": {"memory": "64Mi"}})
    create(kubelet_cluster, real_namespace, pod("ends", "real-0", "exit", "14"), limited)

    assert (14, "Error") == _code_and_reason(how_it_ended(kubelet_cluster, real_namespace, "ends"))
    assert "OOMKilled" == how_it_ended(kubelet_cluster, real_namespace, "greedy")["reason"]


def _code_and_reason(ended: dict[str, Any]) -> tuple[int, str]:
    return ended["exitCode"], ended["reason"]


def test_a_pod_outlives_its_kubelet_and_a_node_cut_off_is_not_ready_until_healed(
    kubelet_cluster: RealCluster, real_namespace: str
) -> None:
    plane, node = kubelet_cluster.plane, kubelet_cluster.nodes.nodes[1]
    create(kubelet_cluster, real_namespace, pod("stays", "real-1"))
    wait_for_running(kubelet_cluster, real_namespace, "stays")
    started = read(kubelet_cluster, real_namespace, "stays")["status"]["containerStatuses"][0]["containerID"]
    kubelet = node.programs["kubelet"]
    kubelet.stop(kill=True)
    wait_until(lambda: not plane.is_ready("real-1"), within_s=60)
    kubelet.start()
    wait_until(lambda: plane.is_ready("real-1"), within_s=60)
    node.cut_off()
    try:
        wait_until(lambda: not plane.is_ready("real-1"), within_s=60)
    finally:
        node.heal()
    wait_until(lambda: plane.is_ready("real-1"), within_s=60)

    assert started == read(kubelet_cluster, real_namespace, "stays")["status"]["containerStatuses"][0]["containerID"]


def test_a_policy_lets_its_peer_in_and_drops_and_counts_a_stranger(
    kubelet_cluster: RealCluster, real_namespace: str
) -> None:
    names = ("guarded", "friend", "stranger")
    places = ("real-0", "real-1", "real-0")
    for name, node in zip(names, places, strict=True):
        create(kubelet_cluster, real_namespace, pod(name, node))
    wait_for_running(kubelet_cluster, real_namespace, *names)
    target = f"{read(kubelet_cluster, real_namespace, 'guarded')['status']['podIP']}:8080"

    def connects(name: str) -> bool:
        try:
            kubectl(kubelet_cluster.plane, "exec", "-n", real_namespace, name, "--", "/probe", "connect", target)
        except subprocess.CalledProcessError as error:
            if "timeout" not in error.stderr:
                raise
            return False
        return True

    assert connects("stranger")
    friends = [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]
    spec = {"podSelector": {"matchLabels": {"app": "guarded"}}, "ingress": friends}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "friends"},
        "spec": spec,
    }
    create(kubelet_cluster, real_namespace, policy)
    wait_until(lambda: not connects("stranger"))

    assert connects("friend")
    assert num_dropped(kubelet_cluster.nodes.nodes[0]) > 0


def test_an_eviction_ends_a_pod(kubelet_cluster: RealCluster, real_namespace: str) -> None:
    create(kubelet_cluster, real_namespace, pod("goes", "real-0"))
    wait_for_running(kubelet_cluster, real_namespace, "goes")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "goes", "namespace": real_namespace},
    }
    kubelet_cluster.plane.post(f"/api/v1/namespaces/{real_namespace}/pods/goes/eviction", eviction)

    kubectl(kubelet_cluster.plane, "wait", "-n", real_namespace, "--for=delete", "pod/goes", "--timeout=30s")


def test_nothing_is_left_when_the_keeper_is_killed(tmp_path: Path) -> None:
    try:
        require_machine(tmp_path)
        binary("coredns")
    except (ComponentMissing, MachineUnfit) as error:
        need_tool(str(error))
    root = Path(__file__).parents[3]
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "SAM3FT_COMPONENTS": str(binary("coredns").parents[2]),
    }
    tool = [sys.executable, str(root / "tools/cluster/keep.py")]
    folder = tmp_path / "sam3ft" / "cluster"
    subprocess.run([*tool, "up", "--kubelets", "1"], env=environment, check=True, timeout=120)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    subprocess.run([*tool, "down"], env=environment, check=True, timeout=60)

    assert not folder.exists()
    assert (
        f"sft-{tag_of(folder)}" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    )
    assert [] == [*CGROUPS.glob(f"*/sft-{tag_of(folder)}-*")]
    assert str(folder) not in Path("/proc/mounts").read_text()
    sweep(folder)  # nothing to do is no error


@pytest.mark.parametrize("missing", ["containerd", "nft"])
def test_a_missing_program_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.setattr("machine.os.geteuid", lambda: 0)
    monkeypatch.setattr("machine.shutil.which", lambda name: None if name == missing else f"/usr/bin/{name}")

    with pytest.raises(MachineUnfit, match=rf"need .*{missing}.*; run tools/components/system.sh"):
        require_machine(tmp_path)
