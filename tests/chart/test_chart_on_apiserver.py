"""The chart on a real API server: install, upgrade, rollback, uninstall, install again. kwok plays the pods."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from chart_bench import CHART, Helm
from control_plane import ControlPlane, kubectl
from ports import free_port
from rights import refused
from tools_here import need_tool
from waiting import wait_for

from components import ComponentMissing
from sam3ft_api.spec import API_VERSION, KIND

ROOT = CHART.parents[1]
ACCOUNT = "demo-sam3ft"
RUN = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "blood", "namespace": "lab"},
    "spec": {
        "model": {"uri": "preset:tiny"},
        "data": {"uri": "s3://datasets/blood"},
        "training": {"maxSteps": 10},
        "checkpoint": {"uri": "s3://runs/blood"},
    },
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster that has never heard of SAM3FineTune, with two namespaces that enforce restricted pods."""
    found = ControlPlane(tmp_path_factory.mktemp("chart-cluster"))
    try:
        found.start()
        found.start_kwok(nodes=2)
        for name in ("ops", "lab"):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            found.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        yield found
    except ComponentMissing as error:
        need_tool(str(error))
    finally:
        found.stop()


@pytest.fixture
def helm(helm_program: Path, tmp_path: Path, plane: ControlPlane) -> Iterator[Helm]:
    """Helm in that cluster; what it has installed is uninstalled, with the definition."""
    found = Helm(helm_program, tmp_path, kubeconfig=plane.admin_kubeconfig)
    yield found
    for release in json.loads(found("list", "-n", "ops", "-o", "json").stdout):
        found("uninstall", release["name"], "-n", "ops", "--wait")
    kubectl(plane, "delete", "crd", "sam3finetunes.sam3ft.dev", "--ignore-not-found")


def install(helm: Helm, *words: str, release: str = "demo") -> None:
    helm("install", release, str(CHART), "-n", "ops", "--wait", "--timeout", "120s", *words)


def make_run(plane: ControlPlane) -> str:
    """Create a run and return its uid."""
    kubectl(plane, "wait", "--for=condition=Established", "crd/sam3finetunes.sam3ft.dev", "--timeout=30s")
    return str(json.loads(kubectl(plane, "create", "-f", "-", "-o", "json", stdin=json.dumps(RUN)))["metadata"]["uid"])


def uid_of_run(plane: ControlPlane) -> str:
    return kubectl(plane, "get", "sft", "blood", "-n", "lab", "-o", "jsonpath={.metadata.uid}")


def test_runs_outlive_upgrade_rollback_uninstall_and_come_back_with_the_next_install(
    helm: Helm, plane: ControlPlane
) -> None:
    install(helm)
    assert "2" == kubectl(plane, "get", "deploy", ACCOUNT, "-n", "ops", "-o", "jsonpath={.status.readyReplicas}")
    uid = make_run(plane)

    helm("upgrade", "demo", str(CHART), "-n", "ops", "--wait", "--set", "replicas=1,operator.workers=4")
    assert "1" == kubectl(plane, "get", "deploy", ACCOUNT, "-n", "ops", "-o", "jsonpath={.spec.replicas}")
    assert "" == kubectl(plane, "get", "pdb", "-n", "ops", "-o", "name")
    helm("rollback", "demo", "1", "-n", "ops", "--wait")
    assert "2" == kubectl(plane, "get", "deploy", ACCOUNT, "-n", "ops", "-o", "jsonpath={.spec.replicas}")
    assert uid == uid_of_run(plane)

    said = helm("uninstall", "demo", "-n", "ops", "--wait")
    assert "CustomResourceDefinition" in said.stdout + said.stderr
    left = kubectl(
        plane, "get", "deploy,sa,role,rolebinding,cm,svc,netpol,pdb", "-n", "ops", "-o", "name", "-l", PART_OF
    )
    assert "" == left
    assert "" == kubectl(plane, "get", "clusterrole,clusterrolebinding", "-o", "name", "-l", PART_OF)
    assert uid == uid_of_run(plane)

    install(helm)
    assert uid == uid_of_run(plane)


PART_OF = "app.kubernetes.io/part-of=sam3ft"


def test_a_release_of_another_name_takes_the_definition_when_it_is_told_to(helm: Helm, plane: ControlPlane) -> None:
    install(helm)
    uid = make_run(plane)
    helm("uninstall", "demo", "-n", "ops", "--wait")
    refusal = helm("install", "other", str(CHART), "-n", "ops", check=False)
    assert refusal.returncode
    assert "sam3finetunes.sam3ft.dev" in refusal.stderr

    install(helm, "--take-ownership", release="other")
    assert uid == uid_of_run(plane)


def test_the_operator_works_with_what_the_chart_gives_it(helm: Helm, plane: ControlPlane, tmp_path: Path) -> None:
    install(helm, "--set", "workerProfiles.small.resources.memory=8Gi")
    make_run(plane)
    with Running(plane, tmp_path) as operator:
        ready = subprocess.run(
            [sys.executable, "-m", "sam3ft_operator.ready", f"http://127.0.0.1:{operator.port}"],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert 0 == ready.returncode, operator.log.read_text()[-3000:]
        job = wait_for(
            "the check's Job is there",
            lambda: kubectl(plane, "get", "job", "blood-preflight", "-n", "lab", "--ignore-not-found", "-o", "name"),
        )
    assert "job.batch/blood-preflight" == job.strip()
    assert set() == refused(plane, user=f"system:serviceaccount:ops:{ACCOUNT}")


class Running:
    """The operator as the chart's Deployment would start it: its arguments, its files, its account."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        """Take all of it from the cluster."""
        deployment = json.loads(kubectl(plane, "get", "deploy", ACCOUNT, "-n", "ops", "-o", "json"))
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        files = json.loads(kubectl(plane, "get", "cm", ACCOUNT, "-n", "ops", "-o", "json"))["data"]
        for name, text in files.items():
            (folder / name).write_text(text)
        self.port, self.log = free_port(), folder / "operator.log"
        told = [word.replace("/etc/sam3ft", str(folder)) for word in container["args"]]
        told = [word for word in told if not word.startswith("--metrics-listen")]
        self._command = [sys.executable, *container["command"][1:], *told]
        self._command += ["--metrics-listen", f"127.0.0.1:{self.port}"]
        self._command += ["--kubeconfig", str(plane.kubeconfig_of("ops", ACCOUNT))]

    def __enter__(self) -> Self:
        """Start it."""
        with self.log.open("wb") as log:
            environ = {**os.environ, "POD_NAMESPACE": "ops"}
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environ)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(40)


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "list", "sam3finetunes.sam3ft.dev", True),
        ("view", "create", "sam3finetunes.sam3ft.dev", False),
        ("edit", "create", "sam3finetunes.sam3ft.dev", True),
        ("edit", "patch", "sam3finetunes.sam3ft.dev/scale", True),
        ("admin", "patch", "sam3finetunes.sam3ft.dev/status", False),
    ],
)
def test_users_of_a_namespace_may_work_with_its_runs(
    helm: Helm, plane: ControlPlane, role: str, verb: str, resource: str, *, allowed: bool
) -> None:
    install(helm)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"ada-{role}", "namespace": "lab"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"ada-{role}"}],
    }
    kubectl(plane, "apply", "-f", "-", stdin=json.dumps(binding))

    def may() -> Any:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": f"ada-{role}", "resourceAttributes": attributes(verb, resource)},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(plane.post(path, review)["status"]["allowed"]) is allowed

    wait_for(f"{role} {'may' if allowed else 'may not'} {verb} {resource}", may)


def attributes(verb: str, resource: str) -> dict[str, str]:
    """Return what is asked about, as a SubjectAccessReview has it."""
    name, _, subresource = resource.partition("/")
    plural, _, group = name.partition(".")
    return {"namespace": "lab", "verb": verb, "group": group, "resource": plural, "subresource": subresource}
