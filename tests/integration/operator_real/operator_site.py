"""The operator as a process of its own on a real API server, under its own account with exactly its own rules."""

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from audit import Call
from control_plane import ControlPlane
from pages import page
from ports import free_port
from waiting import wait_for

from sam3ft_api import names
from sam3ft_api.spec import API_VERSION, KIND
from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.kubernetes.api import Api, ApiProblem, ApiSettings
from sam3ft_launch.kubernetes.kinds import FINETUNE, Kind
from sam3ft_operator.rbac import ROLE, manifests

KINDS = {
    "ServiceAccount": Kind("ServiceAccount", "v1", "serviceaccounts"),
    "ClusterRole": Kind("ClusterRole", "rbac.authorization.k8s.io/v1", "clusterroles"),
    "Role": Kind("Role", "rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Kind("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings"),
}
MANAGER = "test"
CHECKED = json.dumps({"code": 0, "reason": "Succeeded"})
"""Last word of a check that found nothing wrong."""
DONE = json.dumps({"code": 0, "reason": "Succeeded", "step": 10, "checkpoint_step": 10})
"""Last word of a worker that has trained to the end."""
ONE_NODE = {"nodes": 1}
TWO_NODES = {"nodes": 2, "maxNodes": 2, "gpusPerNode": 1}
SMALL_SPEC = {
    "model": {"uri": "preset:tiny"},
    "data": {"uri": "s3://datasets/blood"},
    "training": {"maxSteps": 10},
    "checkpoint": {"uri": "s3://runs/blood"},
}


class Site:
    """A namespace with an account for the operator; processes are started by hand and all killed at the end.

    Attributes:
        patience: how many times as long as usual everything is waited for.
        scope: arguments that say where operators look for resources; its own namespace.
        processes: every operator that was started.
    """

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        """Make the account and its rules."""
        self.plane, self.namespace, self.folder = plane, namespace, folder
        self.patience = 1.0
        self.scope: tuple[str, ...] = ("--namespace", namespace)
        self.api = Api(ApiSettings(kubeconfig=str(plane.admin_kubeconfig)))
        for document in manifests(namespace=namespace, run_namespaces=[namespace]):
            self.make(document)
        self.kubeconfig = plane.kubeconfig_of(namespace, ROLE)
        self.processes: list[OperatorProcess] = []

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what was started, and show its logs where the test has failed."""
        for process in self.processes:
            process.kill()
            if error is not None:
                print(f"--- {process.log.name}\n{process.log.read_text()[-20_000:]}")

    def operator(self, *arguments: str, program: Sequence[str] = ("-m", "sam3ft_operator")) -> "OperatorProcess":
        """Start an operator for this namespace."""
        process = OperatorProcess(self, [*program], [*arguments], number=len(self.processes))
        self.processes.append(process)
        return process

    def make(self, document: dict[str, Any]) -> dict[str, Any]:
        """Create an object; one that exists stays as it is."""
        kind = KINDS.get(document["kind"]) or kinds.CHILDREN[document["kind"]]
        namespace = document["metadata"].get("namespace", "")
        try:
            return self.api.create(kind, namespace, document, manager=MANAGER)
        except ApiProblem as problem:
            if problem.reason != "AlreadyExists":
                raise
            return document

    @property
    def user(self) -> str:
        """What the API server calls this site's operators."""
        return f"system:serviceaccount:{self.namespace}:{ROLE}"

    def apply(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create a resource with a small spec and these fields."""
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": SMALL_SPEC | spec,
        }
        return self.api.create(FINETUNE, self.namespace, body, manager=MANAGER)

    def begin(
        self, name: str = "blood", *, workers: dict[str, Any] = TWO_NODES, **spec: Any
    ) -> tuple[str, list[dict[str, Any]]]:
        """Apply a resource with these fields, let its check pass, and return its uid and all its workers, running."""
        uid = self.apply(name, workers=workers, **spec)["metadata"]["uid"]
        self.pass_check(uid)
        return uid, self.wait_for_pods(uid, role="worker", count=workers["nodes"])

    def pass_check(self, uid: str) -> None:
        """Let the check of a run's data set end well."""
        [check] = self.wait_for_pods(uid, role="preflight", count=1)
        self.end_pod(check, message=CHECKED)

    def finish(self, name: str, workers: list[dict[str, Any]], *, within_s: float = 40.0) -> dict[str, Any]:
        """Let all workers of a run end well, and return the resource once it has succeeded."""
        for worker in workers:
            self.end_pod(worker, message=DONE)
        return self.wait_for_phase(name, "Succeeded", within_s=within_s)

    def change(self, name: str, **spec: Any) -> None:
        """Merge fields into the spec of a resource."""
        self.api.patch(FINETUNE, self.namespace, name, {"spec": spec}, manager=MANAGER)

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """Return an object; None when it does not exist."""
        try:
            return self.api.get(kind, self.namespace, name)
        except ApiProblem as problem:
            if problem.code != 404:
                raise
            return None

    def resource(self, name: str) -> dict[str, Any]:
        """Return a resource that exists."""
        return self.api.get(FINETUNE, self.namespace, name)

    def children(self, kind: Kind, uid: str, *, role: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind that carry the label of a run."""
        selector = f"{names.LABEL_UID}={uid}" + (f",{names.LABEL_ROLE}={role}" if role else "")
        return list(self.api.list(kind, self.namespace, {"labelSelector": selector})["items"])

    def workers_of(self, uid: str, attempt: int) -> list[dict[str, Any]]:
        """Return the workers of an attempt that run and that nobody has asked to go."""
        return [
            pod
            for pod in self.children(kinds.POD, uid, role="worker")
            if pod["metadata"]["labels"][names.LABEL_ATTEMPT] == str(attempt)
            and pod["status"].get("phase") == "Running"
            and "deletionTimestamp" not in pod["metadata"]
        ]

    def job(self, uid: str) -> dict[str, Any]:
        """Return the one Job of a run's workers."""
        [found] = self.children(kinds.JOB, uid, role="worker")
        return found

    def events(self, selector: str = "") -> list[dict[str, Any]]:
        """Return the events that a field selector takes; all of the namespace without one."""
        query = {"fieldSelector": selector} if selector else {}
        return list(self.api.list(kinds.EVENT, self.namespace, query)["items"])

    def wait_for_phase(self, name: str, phase: str, *, within_s: float = 40.0) -> dict[str, Any]:
        """Return the resource once it is in a phase."""

        def read() -> dict[str, Any] | None:
            found = self.resource(name)
            return found if found.get("status", {}).get("phase") == phase else None

        what = f"{name} becomes {phase}, not {self._phase(name)}"
        return wait_for(what, read, within_s=within_s * self.patience)

    def _phase(self, name: str) -> object:
        return (self.get(FINETUNE, name) or {}).get("status", {}).get("phase")

    def wait_for_condition(
        self, name: str, type_: str, status: str, reason: str = "", *, within_s: float = 30.0
    ) -> dict[str, Any]:
        """Return a condition of a resource once it has this status, and this reason if one is named."""

        def read() -> dict[str, Any] | None:
            known = conditions(self.resource(name)).get(type_, {})
            return known if known.get("status") == status and reason in ("", known["reason"]) else None

        what = f"{type_} of {name} is {status}" + (f" for {reason}" if reason else "")
        return wait_for(what, read, within_s=within_s * self.patience)

    def wait_for_events(self, selector: str) -> list[dict[str, Any]]:
        """Return the events that a field selector takes, as soon as there is one."""
        return wait_for(f"an event with {selector}", lambda: self.events(selector))

    def wait_for_workers(self, uid: str, attempt: int, *, count: int) -> list[dict[str, Any]]:
        """Return the workers of an attempt once as many run."""

        def read() -> list[dict[str, Any]] | None:
            found = self.workers_of(uid, attempt)
            return found if len(found) == count else None

        return wait_for(f"{count} workers of attempt {attempt}", read, within_s=90.0 * self.patience)

    def wait_until_empty(self, uid: str, *, within_s: float = 30.0) -> None:
        """Wait until a run has no child."""

        def is_empty() -> bool:
            return not any(self.children(kind, uid) for kind in kinds.CHILDREN.values())

        wait_for("no child is left", is_empty, within_s=within_s * self.patience)

    def wait_for_pods(self, uid: str, *, role: str, count: int, phase: str = "Running") -> list[dict[str, Any]]:
        """Return the pods of a role once as many are in a phase."""

        def read() -> list[dict[str, Any]] | None:
            found = [pod for pod in self.children(kinds.POD, uid, role=role) if pod["status"].get("phase") == phase]
            return found if len(found) == count else None

        return wait_for(f"{count} pods of {role} are {phase}", read, within_s=30.0 * self.patience)

    def end_pod(self, pod: dict[str, Any], *, code: int = 0, message: str = "") -> None:
        """Let a running pod end with this code and last word."""
        self.tell(pod, exit_code=str(code), message=message)

    def tell(self, pod: dict[str, Any], **annotations: str) -> None:
        """Tell kwok what happens to a pod, by the names of docs/test-cluster.md with underscores."""
        told = {f"play.sam3ft.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
        body = {"metadata": {"annotations": told}}
        self.api.patch(kinds.POD, self.namespace, pod["metadata"]["name"], body, manager=MANAGER)

    def calls(self) -> list[Call]:
        """Return the requests of this site's operators that the API server has answered."""
        return list(self.plane.calls(user=self.user))

    def created(self, resource: str) -> list[str]:
        """Return the names of the objects of a kind that the operators have created; one made twice stands twice."""
        return [
            call.name for call in self.calls() if (call.verb, call.code, call.resource) == ("create", 201, resource)
        ]


def conditions(resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the conditions of a resource by their types; none while it has no status."""
    return {condition["type"]: condition for condition in resource.get("status", {}).get("conditions", [])}


class OperatorProcess:
    """One running operator."""

    def __init__(self, site: Site, program: list[str], arguments: list[str], *, number: int) -> None:
        """Start it; it is not waited for."""
        self.port = free_port()
        self.log = site.folder / f"operator-{number}-{uuid.uuid4().hex[:6]}.log"
        command = [
            *(sys.executable, *program, *site.scope),
            *("--kubeconfig", str(site.kubeconfig), "--lease-namespace", site.namespace),
            *("--operator-image", "registry.example/operator:1", "--trainer-image", "registry.example/trainer:1"),
            *("--metrics-listen", f"127.0.0.1:{self.port}", "--verbose", *arguments),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_ready(self, *, within_s: float = 40.0) -> None:
        """Wait until /readyz says so."""

        def is_ready() -> bool:
            assert self._process.poll() is None, self.log.read_text()[-5000:]
            return self.get("/readyz")[0] == 200

        wait_for("the operator is ready", is_ready, within_s=within_s)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of one of its pages; 0 when it does not answer."""
        return page(self.port, path, within_s=5)

    def is_leading(self) -> bool:
        """Tell whether it says that it leads; the answer is up to 5 s old."""
        return "sam3ft_leader 1.0" in self.get("/metrics")[1]

    def terminate(self) -> int:
        """Ask it to end and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # leaves the stacks of its threads in the log
            self._process.wait(10)
            raise

    def ended_with(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.poll()

    def wait(self, *, within_s: float) -> int:
        """Return its exit code once it has ended by itself."""
        return self._process.wait(within_s)

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Return its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]
