"""The control plane of the tests: real, obedient, and gone when its owner is."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import ports
import pytest
from control_plane import ControlPlane, kubectl
from definitions import apply_crds
from ports import free_port
from programs import Program
from spec_cases import SMALL, resource

from components import ComponentMissing, cache_root
from sam3ft_api.spec import API_VERSION, KIND

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools/cluster/cluster"


@pytest.fixture
def own_plane(cluster: ControlPlane, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of the test's own, to be struck; `cluster` tells first whether the machine can have one."""
    with ControlPlane(tmp_path, definitions=apply_crds) as plane:
        yield plane


def test_what_belongs_to_a_resource_goes_with_it_from_the_first_second(own_plane: ControlPlane) -> None:
    kubectl(own_plane, "create", "-f", "-", stdin=json.dumps(resource(SMALL)))
    uid = kubectl(own_plane, "get", "sft", "run", "-o", "jsonpath={.metadata.uid}")
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": "run", "uid": uid}
    child = {"metadata": {"name": "child", "ownerReferences": [owner]}}
    own_plane.post("/api/v1/namespaces/default/configmaps", child)
    kubectl(own_plane, "delete", "sft", "run")

    # The collector looks for resources that were defined later every 30 s.
    kubectl(own_plane, "wait", "--for=delete", "configmap/child", "--timeout=10s")


def test_an_account_may_do_nothing_that_nobody_allowed_and_the_audit_log_tells(
    cluster: ControlPlane, namespace: str
) -> None:
    kubectl(cluster, "create", "serviceaccount", "somebody", "-n", namespace)
    kubeconfig = str(cluster.kubeconfig_of(namespace, "somebody"))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl(cluster, "--kubeconfig", kubeconfig, "get", "pods")

    user = f"system:serviceaccount:{namespace}:somebody"
    assert f'"{user}" cannot list resource "pods"' in refused.value.stderr
    told = [call for call in cluster.calls(user=user) if call.resource == "pods"]
    assert [("list", namespace, "", 403)] == [(call.verb, call.namespace, call.subresource, call.code) for call in told]
    tokens = [call for call in cluster.calls(user="admin") if (call.name, call.subresource) == ("somebody", "token")]
    assert [201] == [call.code for call in tokens if call.namespace == namespace]


def test_a_careless_pod_is_refused_in_the_namespace_of_a_test(cluster: ControlPlane, namespace: str) -> None:
    careless = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "main", "image": "x"}]}}

    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.post(f"/api/v1/namespaces/{namespace}/pods", careless)

    assert 403 == refused.value.code
    assert 'violates PodSecurity \\"restricted' in refused.value.read().decode()


def test_what_is_stored_outlives_the_death_of_etcd_and_api_server(own_plane: ControlPlane) -> None:
    kubectl(own_plane, "create", "configmap", "kept", "--from-literal=a=b")
    for name in ("etcd", "kube-apiserver"):
        own_plane.program(name).stop(kill=True)
        with pytest.raises(OSError, match=r"refused|timed out|500|503"):
            own_plane.get("/readyz")
        own_plane.program(name).start()
        own_plane.wait_until_ready()

    assert "b" == kubectl(own_plane, "get", "configmap", "kept", "-o", "jsonpath={.data.a}")
    for program in own_plane.pids():
        own_plane.program(program).raise_if_ended()


def test_a_paused_api_server_answers_nobody_until_it_goes_on(own_plane: ControlPlane) -> None:
    own_plane.program("kube-apiserver").pause()
    with pytest.raises(subprocess.CalledProcessError) as silence:
        kubectl(own_plane, "get", "namespaces", "--request-timeout=1s")
    own_plane.program("kube-apiserver").go_on()

    assert "kube-system" in kubectl(own_plane, "get", "namespaces")
    assert any(word in silence.value.stderr for word in ("timeout", "Timeout", "deadline")), silence.value.stderr


def test_a_part_that_does_not_come_up_is_an_error_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: ControlPlane
) -> None:
    assets, folder = tmp_path / "assets", tmp_path / "plane"
    assets.mkdir()
    folder.mkdir()
    (assets / "etcd").write_text("#!/bin/sh\necho 'no room for data'\nexit 3\n")
    (assets / "etcd").chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))  # where it is set, etcd comes from there

    with pytest.raises(RuntimeError, match=r"etcd ended with 3:\nno room for data"):
        ControlPlane(folder).__enter__()


def test_programs_that_are_not_built_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAM3FT_COMPONENTS", str(tmp_path / "empty"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)

    with pytest.raises(ComponentMissing, match="is not built; run make components"):
        ControlPlane(tmp_path).start()


def test_programs_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time; from programs import Program\n"
        "sleeper = Program('sleeper', ['sleep', '600'], pathlib.Path(sys.argv[1]))\n"
        "sleeper.start(); print(sleeper.pid, flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOOL.parent)},
    )
    assert owner.stdout is not None
    with owner.stdout:
        sleeper = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()

    give_up_at = time.monotonic() + 10
    while is_running(sleeper) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert not is_running(sleeper)


def test_a_program_appends_to_its_log_over_a_restart(tmp_path: Path) -> None:
    program = Program("echo", ["sh", "-c", "echo once; exec sleep 600"], tmp_path / "log")
    for starts in (1, 2):
        program.start()
        give_up_at = time.monotonic() + 10
        while program.log.read_text().count("once") < starts and time.monotonic() < give_up_at:
            time.sleep(0.02)
        program.stop()

    assert "once\nonce" == program.log_tail()


def test_a_port_is_one_that_no_outgoing_connection_takes() -> None:
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with contextlib.ExitStack() as held:
        for _ in range(50):
            port = free_port()
            assert 1024 < port < lowest_outgoing
            held.enter_context(socket.socket()).bind(("127.0.0.1", port))


def test_a_port_is_given_to_one_process_while_that_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = random.SystemRandom().randrange(10000, 19000)  # below those that servers of the tests are given
    monkeypatch.setattr(ports, "_PORTS", range(lowest, lowest + 4))
    ask = f"import ports; ports._PORTS = range({lowest}, {lowest + 4}); print(ports.free_port(), flush=True); input()"
    with contextlib.ExitStack() as living:
        mine = {free_port(), free_port()}
        theirs = set()
        for _ in range(2):
            other = living.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    env={**os.environ, "PYTHONPATH": str(Path(ports.__file__).parent)},
                )
            )  # fmt: skip
            living.callback(other.kill)
            assert other.stdout is not None
            theirs.add(int(other.stdout.readline()))
        assert mine | theirs == set(range(lowest, lowest + 4))
        with pytest.raises(OSError, match="no port of"):
            free_port()
    assert free_port() in theirs


def test_the_tool_keeps_a_control_plane_in_the_background_until_it_is_told(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHON": sys.executable}
    environment |= {"SAM3FT_COMPONENTS": str(cache_root())}  # the cache folder is another, the programs are the same

    def tool(*arguments: str) -> str:
        done = subprocess.run([TOOL, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    assert "cluster: down" == tool("status")
    said = tool("up", "--nodes", "1")
    try:
        kubeconfig = said.removeprefix("export KUBECONFIG=")
        listed = json.loads(kubectl(cluster, "--kubeconfig", kubeconfig, "get", "nodes,crds", "-o", "json"))
        assert ["node-0", "sam3finetunes.sam3ft.dev"] == [item["metadata"]["name"] for item in listed["items"]]
        assert said == tool("up")
        assert tool("status").startswith("cluster: up (pid ")
        keeper = int((tmp_path / "sam3ft/cluster/pid").read_text())
    finally:
        assert "cluster: down" == tool("down")
    assert not is_running(keeper)
    assert not (tmp_path / "sam3ft/cluster").exists()


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
