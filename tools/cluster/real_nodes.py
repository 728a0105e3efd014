"""Real nodes for a control plane on this machine, with name server, registry and S3 server.

nodes = RealNodes(folder, count=2)
plane = ControlPlane(folder, arguments=ARGUMENTS)
with plane, nodes.of(plane):
    ...
"""

import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from control_plane import ControlPlane, kubectl
from machine import MachineUnfit, Wires, lay_wires, require_machine, sweep
from node import RealNode
from oci_image import PROBE, SANDBOX, write_archive
from played_nodes import is_ready
from policy_watch import PolicyWatch
from programs import Program

from components import binary

READY_S = 60.0
API_PORT, DNS_PORT, REGISTRY_PORT, S3_PORT = 6443, 53, 5000, 7070
CLUSTER_DNS = "10.96.0.10"
ARGUMENTS = {"kube-apiserver": ["--kubelet-preferred-address-types=InternalIP"]}
"""What a ControlPlane with real nodes is told."""


class RealNodes:
    """Nodes `real-0`, `real-1` and so on, and what their pods need beside the API server.

    Attributes:
        nodes: in order.
        s3_keys: access key and secret key of the S3 server.
    """

    def __init__(self, folder: Path, *, count: int) -> None:
        """Prepare; nothing is started.

        Args:
            folder: of the cluster; exists.
            count: of nodes, up to 200.
        """
        self.folder, self._count = folder.resolve(), count
        self.nodes: list[RealNode] = []
        self.s3_keys = (f"test{secrets.token_hex(8)}", secrets.token_hex(20))
        self.took_s: dict[str, float] = {}
        self._wires: Wires | None = None
        self._servers: list[Program] = []
        self._policies: PolicyWatch | None = None

    @property
    def registry(self) -> str:
        """Host and port of the registry, for pushing from this machine and in the images of pods; plain HTTP."""
        return f"{self._laid().host}:{REGISTRY_PORT}"

    @property
    def s3_endpoint(self) -> str:
        """URL of the S3 server, for this machine and for pods; the buckets are folders of `s3` in the folder."""
        return f"http://{self._laid().host}:{S3_PORT}"

    @contextmanager
    def of(self, plane: ControlPlane) -> Iterator["RealNodes"]:
        """Start everything for a running control plane that was given `ARGUMENTS`; ends it on leaving.

        Raises:
            MachineUnfit: this machine cannot have real nodes.
            RuntimeError: a part does not come up; the message holds the end of its log.
        """
        require_machine(self.folder)
        try:
            self._start(plane)
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """End everything and remove what is outside of the folder, and images; also after a start that failed."""
        if self._policies is not None:
            self._policies.stop()
            self._policies = None
        for node in self.nodes:
            node.stop()
        for server in self._servers[::-1]:
            server.stop()
        self._servers.clear()
        sweep(self.folder)
        # Gigabytes that nobody reads again; logs and buckets stay.
        for heavy in [self.folder / "registry", *(node.folder / "containerd" for node in self.nodes)]:
            shutil.rmtree(heavy, ignore_errors=True)

    def _start(self, plane: ControlPlane) -> None:
        sweep(self.folder)
        self._wires = lay_wires(self.folder)
        self._timed("servers", lambda: self._start_servers(plane))
        kubeconfig = self._kubeconfig(plane)
        for number in range(self._count):
            folder = self.folder / f"real-{number}"
            folder.mkdir()
            node = RealNode(
                folder,
                number,
                self._wires,
                kubelet=kubeconfig,
                proxy=kubeconfig,
                registry=self.registry,
                dns=CLUSTER_DNS,
            )
            self.nodes.append(node)
            others = [other for other in range(self._count) if other != number]
            self._timed(node.name, lambda node=node, others=others: node.start(others=others))  # type: ignore[misc]
        self._timed("ready", lambda: self._wait_until_ready(plane))
        self._policies = PolicyWatch(plane, self.nodes)
        self._policies.start()

    def _start_servers(self, plane: ControlPlane) -> None:
        host, probe = self._laid().host, binary("probe")
        write_archive(self.folder / "pause.image.tar", SANDBOX, probe, ["pause"])
        write_archive(self.folder / "probe.image.tar", PROBE, probe, ["serve", ":8080"])
        target = plane.url.removeprefix("https://")
        self._serve("api-forward", [str(probe), "forward", f"{host}:{API_PORT}", target])
        corefile = self.folder / "Corefile"
        corefile.write_text(
            f".:{DNS_PORT} {{\n  bind {host}\n  errors\n"
            f"  kubernetes cluster.local {{\n    kubeconfig {plane.admin_kubeconfig}\n    pods insecure\n  }}\n}}\n"
        )
        self._serve("coredns", [str(binary("coredns")), "-conf", str(corefile)])
        registry = shutil.which("docker-registry")
        if registry is None:
            raise MachineUnfit("real nodes need docker-registry; run tools/components/system.sh")
        (self.folder / "registry").mkdir(exist_ok=True)
        storage = {"filesystem": {"rootdirectory": str(self.folder / "registry")}}
        settings = {"version": "0.1", "log": {"level": "warn"}, "storage": storage, "http": {"addr": self.registry}}
        (self.folder / "registry.json").write_text(json.dumps(settings))
        self._serve("registry", [registry, "serve", str(self.folder / "registry.json")])
        (self.folder / "s3").mkdir(exist_ok=True)
        access, secret = self.s3_keys
        gateway = [str(binary("versitygw")), "--access", access, "--secret", secret, "--port", f"{host}:{S3_PORT}"]
        self._serve("s3", [*gateway, "posix", str(self.folder / "s3")])
        slices = ("default", "kubernetes", {"https": (API_PORT, "TCP")}), ("kube-system", "kube-dns", _DNS_PORTS)
        kubectl(plane, "apply", "-f", "-", stdin=json.dumps(_dns_service()))
        for namespace, service, ports in slices:
            document = json.dumps(_endpoints(namespace, service, host, ports))
            kubectl(plane, "apply", "-f", "-", stdin=document)

    def _serve(self, name: str, command: list[str]) -> None:
        server = Program(name, command, self.folder / f"{name}.log")
        server.start()
        self._servers.append(server)

    def _wait_until_ready(self, plane: ControlPlane) -> None:
        give_up_at = time.monotonic() + READY_S
        while time.monotonic() < give_up_at:
            for program in [*self._servers, *(part for node in self.nodes for part in node.programs.values())]:
                program.raise_if_ended()
            found = json.loads(plane.get("/api/v1/nodes"))["items"]
            if {node.name for node in self.nodes} <= {node["metadata"]["name"] for node in found if is_ready(node)}:
                return
            time.sleep(0.2)
        tails = "\n".join(node.programs["kubelet"].log_tail() for node in self.nodes)
        raise RuntimeError(f"not every node is Ready within {READY_S:g} s:\n{tails}")

    def _kubeconfig(self, plane: ControlPlane) -> Path:
        """Return a kubeconfig by which programs inside of nodes reach the API server."""
        document = json.loads(plane.admin_kubeconfig.read_text())
        about = document["clusters"][0]["cluster"]
        about["server"] = f"https://{self._laid().host}:{API_PORT}"
        about["tls-server-name"] = "kubernetes.default.svc"
        path = self.folder / "nodes.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(document))
        return path

    def _laid(self) -> Wires:
        if self._wires is None:
            raise RuntimeError("the nodes have not been started")
        return self._wires

    def _timed(self, what: str, act: Callable[[], None]) -> None:
        started = time.monotonic()
        act()
        self.took_s[what] = time.monotonic() - started
        print(f"cluster: {what} took {self.took_s[what]:.1f} s", file=sys.stderr, flush=True)


_DNS_PORTS = {"dns": (DNS_PORT, "UDP"), "dns-tcp": (DNS_PORT, "TCP")}


def _dns_service() -> dict[str, object]:
    ports = [{"name": name, "port": port, "protocol": protocol} for name, (port, protocol) in _DNS_PORTS.items()]
    metadata = {"name": "kube-dns", "namespace": "kube-system"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": CLUSTER_DNS, "ports": ports},
    }


def _endpoints(namespace: str, service: str, address: str, ports: dict[str, tuple[int, str]]) -> dict[str, object]:
    """Return what leads a Service without pods to a server on this machine."""
    labels = {"kubernetes.io/service-name": service}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{service}-host", "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": name, "port": port, "protocol": protocol} for name, (port, protocol) in ports.items()],
    }
