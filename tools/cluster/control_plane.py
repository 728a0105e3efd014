"""A Kubernetes control plane on this machine: etcd, kube-apiserver, controllers and scheduler, without kubelets.

    with ControlPlane(folder) as plane:
        kubernetes.config.load_kube_config(str(plane.admin_kubeconfig))

Everything listens on loopback and lies below one folder: keys, data, logs, kubeconfigs, the audit log. RBAC, Pod
Security admission and the Job controller are the real ones. Pods are played by kwok (`start_kwok`), where a test asks.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from audit import AUDIT_POLICY, Call, audit_entries
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from played_nodes import PLAYED, is_ready, node_named, pod_logs
from ports import HOST, free_port
from programs import Program

from components import binary

HERE = Path(__file__).resolve().parent
START_S = 60.0
ADMIN, CONTROLLERS, SCHEDULER = "admin", "system:kube-controller-manager", "system:kube-scheduler"
ISSUER = "https://kubernetes.default.svc"
LONGEST_TOKEN_S = 24 * 3600


class ControlPlane:
    """Started by entering the context, ended by leaving it; parts can be stopped, paused and started between.

    Attributes:
        folder: of everything; exists.
        audit_log: JSON lines of every request that the API server has answered.
        admin_kubeconfig: of a user who may do everything.
    """

    def __init__(
        self,
        folder: Path,
        *,
        definitions: Callable[["ControlPlane"], None] | None = None,
        arguments: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Prepare; nothing is started before the context is entered.

        Args:
            folder: of everything; exists.
            definitions: installs resources of one's own before the controllers start. The garbage collector learns of
                later ones within half a minute, and until then deletes nothing that belongs to them.
            arguments: more of them for a part, by its name; they come last, so that they win.
        """
        self.folder, self._definitions, self._arguments = folder, definitions, arguments or {}
        self.audit_log = folder / "audit.jsonl"
        self.admin_kubeconfig = folder / "admin.kubeconfig"
        self._port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self._tokens = {user: secrets.token_hex(16) for user in (ADMIN, CONTROLLERS, SCHEDULER)}
        self._programs: dict[str, Program] = {}

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"https://{HOST}:{self._port}"

    @property
    def admin_token(self) -> str:
        """The administrator's bearer token, good for this control plane alone."""
        return self._tokens[ADMIN]

    @property
    def pod_log(self) -> Path:
        """What every pod that kwok plays has said."""
        return self.folder / "pods.log"

    @property
    def ca_file(self) -> Path:
        """The certificate by which the API server is known."""
        return self.folder / "certs" / "apiserver.crt"

    def program(self, name: str) -> Program:
        """Return a running part: etcd, kube-apiserver, kube-controller-manager, kube-scheduler or kwok."""
        return self._programs[name]

    def pids(self) -> dict[str, int]:
        """Return the process id of every part."""
        return {name: program.pid for name, program in self._programs.items()}

    def __enter__(self) -> Self:
        """Start everything and wait until the controllers work.

        Raises:
            RuntimeError: a part does not come up; the message holds the end of its log.
        """
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything."""
        self.stop()

    def start(self) -> None:
        """Start what `__enter__` starts."""
        self._write_files()
        self.run("etcd", self._etcd_arguments(), "etcd", "server")
        self.run("kube-apiserver", self._apiserver_arguments(), "kubernetes", "kube-apiserver")
        self.wait_until_ready()
        if self._definitions is not None:
            self._definitions(self)
        self.run("kube-controller-manager", self._controller_arguments(), "kubernetes", "kube-controller-manager")
        scheduler = ["--kubeconfig", str(self._kubeconfig(SCHEDULER)), "--leader-elect=false", "--secure-port=0"]
        self.run("kube-scheduler", scheduler, "kubernetes", "kube-scheduler")
        self.wait(self._has_default_service_account, "kube-controller-manager")

    def wait_until_ready(self) -> None:
        """Wait until the API server answers, also after a part was stopped or paused and goes on.

        Raises:
            RuntimeError: it does not within 60 s; the message holds the end of its log.
        """
        self.wait(lambda: self.get("/readyz") == "ok", "kube-apiserver")

    def stop(self) -> None:
        """End every part, the newest first."""
        while self._programs:
            self._programs.popitem()[1].stop()

    def run(self, name: str, arguments: Sequence[str], component: str, program: str) -> None:
        """Start a program of a component as the part `name`; its output is in `NAME.log`."""
        command = [str(find_program(component, program)), *arguments, *self._arguments.get(name, ())]
        self._programs[name] = Program(name, command, self.folder / f"{name}.log")
        self._programs[name].start()

    def wait(self, condition: Callable[[], bool], name: str) -> None:
        """Wait until a condition holds; an OSError counts as not yet.

        Raises:
            RuntimeError: a part has ended, or it does not hold within 60 s; the message holds the end of the log of
                that part, or of `name`.
        """
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at:
            for program in self._programs.values():
                program.raise_if_ended()
            try:
                if condition():
                    return
            except OSError:
                pass  # not listening yet, or not yet ready to answer
            time.sleep(0.1)
        raise RuntimeError(f"{name} did not come up within {START_S:g} s:\n{self._programs[name].log_tail()}")

    def start_kwok(self, *, nodes: int) -> None:
        """Let kwok play nodes and the pods on them; see stages.yaml for what a pod can be told.

        Args:
            nodes: how many, named `node-0` and so on, each with 64 CPU, 512Gi and 8 nvidia.com/gpu.

        The log of every pod is `pod_log`, in the form of container runtimes: `TIME stdout F LINE`.
        """
        for number in range(nodes):
            self.post("/api/v1/nodes", node_named(f"node-{number}"))
        arguments = ["--kubeconfig", str(self.admin_kubeconfig), "--config", str(HERE / "stages.yaml")]
        arguments += ["--manage-nodes-with-label-selector", PLAYED, "--node-ip", HOST]
        # It renews four times in a duration, and the controllers wait 10 s: five renewals must fail, not one.
        arguments += ["--node-lease-duration-seconds", "8"]
        port, certs = free_port(), self.ca_file.parent
        logs = self.folder / "kwok-logs.json"
        logs.write_text(json.dumps(pod_logs(self.pod_log)))
        self.pod_log.touch()
        arguments += ["--config", str(logs), "--server-address", f"{HOST}:{port}", "--node-port", str(port)]
        arguments += ["--tls-cert-file", str(self.ca_file), "--tls-private-key-file", str(certs / "apiserver.key")]
        self.run("kwok", arguments, "kwok", "kwok")
        self.wait(lambda: self._num_ready_nodes() >= nodes, "kwok")

    def add_node(self, name: str) -> None:
        """Let kwok play one more node, for a test that loses it; only pods that name it come there.

        A pod names it by `nodeSelector: {kubernetes.io/hostname: NAME}` and tolerates the taint of the same key.
        """
        node = node_named(name)
        node["spec"] = {"taints": [{"key": "kubernetes.io/hostname", "value": name, "effect": "NoSchedule"}]}
        self.post("/api/v1/nodes", node)
        self.wait(lambda: self.is_ready(name), "kwok")

    def is_ready(self, node: str) -> bool:
        """Tell whether the cluster takes a node for ready."""
        return is_ready(json.loads(self.get(f"/api/v1/nodes/{node}")))

    def lose_node(self, name: str) -> None:
        """Let a node fall silent: its lease is no longer renewed, and its pods neither run on, end, nor go.

        The controllers call it NotReady about ten seconds later and evict what does not tolerate that.
        """
        kubectl(self, "label", "node", name, f"{PLAYED}-")

    def return_node(self, name: str) -> None:
        """Undo `lose_node`: the node is heard again, and pods deleted meanwhile go."""
        kubectl(self, "label", "node", name, f"{PLAYED}=yes")

    def kubeconfig_of(self, namespace: str, service_account: str) -> Path:
        """Return a kubeconfig with a fresh token of a service account that exists."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        spec = {"expirationSeconds": LONGEST_TOKEN_S}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token = self.post(path, request)["status"]["token"]
        return self._kubeconfig(f"{namespace}.{service_account}", token=token, namespace=namespace)

    def get(self, path: str) -> str:
        """Return the answer to a GET of the administrator."""
        return self._request(path, None)

    def post(self, path: str, document: dict[str, Any]) -> Any:
        """Return the answer to a POST of the administrator."""
        return json.loads(self._request(path, document))

    def audit(self) -> Iterator[dict[str, Any]]:
        """Yield what the audit log holds: one dictionary per answered request, in the form of audit.k8s.io/v1."""
        if self.audit_log.exists():
            yield from audit_entries(self.audit_log.read_bytes())

    def calls(self, *, user: str = "") -> Iterator[Call]:
        """Yield the answered requests in the order of the audit log.

        Args:
            user: only this one's, as `system:serviceaccount:NAMESPACE:NAME`; empty for everybody's.
        """
        for entry in self.audit():
            about = entry.get("objectRef", {})
            call = Call(
                user=entry["user"].get("username", ""),  # empty where the server stood still before it knew
                verb=entry["verb"],
                resource=about.get("resource", ""),
                subresource=about.get("subresource", ""),
                namespace=about.get("namespace", ""),
                name=about.get("name", ""),
                code=entry.get("responseStatus", {}).get("code", 0),
            )
            if user in {"", call.user}:
                yield call

    def _request(self, path: str, document: dict[str, Any] | None) -> str:
        request = urllib.request.Request(  # noqa: S310 - an https URL of our own
            self.url + path,
            data=None if document is None else json.dumps(document).encode(),
            headers={"Authorization": f"Bearer {self._tokens[ADMIN]}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310 - as above
            return str(answer.read().decode())

    def _has_default_service_account(self) -> bool:
        return '"name":"default"' in self.get("/api/v1/namespaces/default/serviceaccounts").replace(" ", "")

    def _num_ready_nodes(self) -> int:
        return sum(is_ready(node) for node in json.loads(self.get("/api/v1/nodes"))["items"])

    def _write_files(self) -> None:
        (self.folder / "certs").mkdir(exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        groups = {ADMIN: "system:masters", CONTROLLERS: "", SCHEDULER: ""}
        tokens = "".join(f'{token},{user},{user},"{groups[user]}"\n' for user, token in self._tokens.items())
        for name, content in {
            "sa.key": private,
            "sa.pub": public,
            "tokens.csv": tokens.encode(),
            "audit-policy.json": json.dumps(AUDIT_POLICY).encode(),
        }.items():
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_bytes(content)
        for user, path in ((ADMIN, self.admin_kubeconfig), (CONTROLLERS, None), (SCHEDULER, None)):
            self._kubeconfig(user, path=path)

    def _kubeconfig(
        self, user: str, *, token: str | None = None, namespace: str = "default", path: Path | None = None
    ) -> Path:
        path = path or self.folder / f"{user.replace(':', '.')}.kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": namespace}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": user, "user": {"token": token or self._tokens[user]}}],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=1))
        return path

    def _etcd_arguments(self) -> list[str]:
        client, peer = f"http://{HOST}:{self._etcd_port}", f"http://{HOST}:{self._peer_port}"
        return [
            *("--data-dir", str(self.folder / "etcd"), "--name", "test"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"test={peer}"),
            *("--unsafe-no-fsync", "--log-level", "warn", "--quota-backend-bytes", str(4 << 30)),
        ]

    def _apiserver_arguments(self) -> list[str]:
        return [
            f"--etcd-servers=http://{HOST}:{self._etcd_port}",
            f"--secure-port={self._port}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self.folder / 'sa.pub'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            f"--service-account-max-token-expiration={LONGEST_TOKEN_S}s",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC,Node",
            # Off by default and on in OpenShift: whoever names an owner needs rights to it.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=4000",  # MB; 100 by default, and what is rotated away is lost to `audit`
            f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            "--enable-priority-and-fairness=true",
            "--endpoint-reconciler-type=none",
        ]

    def _controller_arguments(self) -> list[str]:
        return [
            *("--kubeconfig", str(self._kubeconfig(CONTROLLERS)), "--leader-elect=false", "--secure-port=0"),
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.folder / 'sa.key'}",
            f"--root-ca-file={self.ca_file}",
            *("--node-monitor-period=1s", "--node-monitor-grace-period=10s"),
        ]


def find_program(component: str, program: str) -> Path:
    """Return a program: from KUBEBUILDER_ASSETS where it lies there (envtest's layout), else the one built here."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    name = "etcd" if component == "etcd" else program
    if assets and (found := shutil.which(name, path=assets)):
        return Path(found)
    return binary(component, program)


def kubectl(plane: ControlPlane, *arguments: str, stdin: str = "") -> str:
    """Return what kubectl prints as the administrator.

    Raises:
        subprocess.CalledProcessError: it ended with another status than 0; `stderr` says why, and so does a note.
    """
    command = [str(find_program("kubernetes", "kubectl")), "--kubeconfig", str(plane.admin_kubeconfig), *arguments]
    try:
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=120).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise
