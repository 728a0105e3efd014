"""The control plane, its nodes, and the operator as a process of its own under its own account."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3ft_api.spec import GROUP, PLURAL
from sam3ft_launch.kubernetes.api import Api, ApiSettings
from sam3ft_operator.rbac import ROLE, manifests

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools" / "cluster"), str(ROOT / "tools" / "components")]
from control_plane import PLAYED, ControlPlane  # noqa: E402 - lies with the tools
from definitions import apply_crds  # noqa: E402 - as above
from pages import page  # noqa: E402 - as above
from ports import HOST, free_port  # noqa: E402 - as above
from programs import Program  # noqa: E402 - as above

NAMESPACE = "bench"
AGENT = "bench-operator"
"""What the audit log calls the requests of the benchmark itself."""
OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{ROLE}"
NODE_SIZE = {"cpu": "4096", "memory": "64Ti", "pods": "2000", "ephemeral-storage": "64Ti", "nvidia.com/gpu": "512"}
"""So large that no pod waits for room: what is measured is the operator, not a queue for nodes."""
UNREAD = ("endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller")
"""Controllers whose objects nobody reads here; they would refuse the loopback addresses of the stand-ins."""
POD_ADDRESSES = "127.128.0.0/9"
"""A question to a coordinator that nobody plays is refused at once and never leaves this machine."""
LEASE_S = 120
"""Length of the nodes' leases, renewed four times in it: by default a thousand nodes send 100 requests a second."""
ARGUMENTS = {
    # One client of each controller may do 20 requests a second by default, which would be the limit of everything.
    "kube-controller-manager": [
        *("--kube-api-qps=1000", "--kube-api-burst=1000", "--concurrent-job-syncs=20"),
        *(f"--node-monitor-grace-period={2 * LEASE_S}s", "--node-monitor-period=5s"),
        "--controllers=*," + ",".join(f"-{name}" for name in UNREAD),
    ],
    "kube-scheduler": ["--kube-api-qps=1000", "--kube-api-burst=1000"],
    "kwok": [
        *("--config", str(Path(__file__).with_name("stages.yaml")), "--cidr", POD_ADDRESSES),
        *("--node-lease-duration-seconds", str(LEASE_S)),
    ],
}
READY_S = 300.0


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that runs.

    Attributes:
        plane: the control plane.
        api: requests of the benchmark, as the administrator.
        operator: the operator's process.
        port: of its probes and metrics.
    """

    plane: ControlPlane
    api: Api
    operator: Program
    port: int

    def pids(self) -> dict[str, int]:
        """Return the process id of every program by its name."""
        return {**self.plane.pids(), self.operator.name: self.operator.pid}

    def page(self, path: str) -> tuple[int, str]:
        """Return status and body of one of the operator's pages; 0 when it does not answer."""
        return page(self.port, path, within_s=30)

    def metric(self, name: str) -> float:
        """Return a value of the operator's metrics, up to 5 s old; 0 for one that it does not show yet."""
        for line in self.page("/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0


@contextmanager
def running_site(folder: Path, *, nodes: int, say: Callable[[str], None]) -> Iterator[Site]:
    """Start everything, and end it again however the block is left.

    Raises:
        ComponentMissing: the programs are not built.
        RuntimeError: a part does not come up.
    """
    policy = folder / "audit-figures.json"
    policy.write_text(json.dumps(_audit_policy()))
    arguments = {**ARGUMENTS, "kube-apiserver": [f"--audit-policy-file={policy}"]}
    with ControlPlane(folder, definitions=apply_crds, arguments=arguments) as plane:
        say(f"control plane at {plane.url}, {nodes:,} nodes to come")
        plane.start_kwok(nodes=0)
        settings = ApiSettings(
            kubeconfig=str(plane.admin_kubeconfig), agent=AGENT, qps=10_000, burst=10_000, connections=32
        )
        api = Api(settings)
        _make_nodes(plane, nodes)
        _make_account(plane)
        port = free_port()
        operator = Program("operator", _command(plane, port), folder / "operator.log")
        operator.start()
        site = Site(plane, api, operator, port)
        try:
            wait_for(lambda: site.page("/readyz")[0] == 200, "the operator is ready", programs=[operator])
            yield site
        finally:
            operator.stop()


def wait_for(
    condition: Callable[[], bool], what: str, *, within_s: float = READY_S, programs: list[Program] | None = None
) -> None:
    """Wait until a condition holds.

    Raises:
        RuntimeError: it does not within the time, or one of the programs has ended.
    """
    give_up_s = time.monotonic() + within_s
    while not condition():
        for program in programs or []:
            program.raise_if_ended()
        if time.monotonic() > give_up_s:
            raise RuntimeError(f"not within {within_s:g} s: {what}")
        time.sleep(0.2)


def _command(plane: ControlPlane, port: int) -> list[str]:
    """Return the operator's command line: defaults, but for what every installation has to say."""
    return [
        *(sys.executable, "-m", "sam3ft_operator", "--namespace", NAMESPACE, "--lease-namespace", NAMESPACE),
        *("--kubeconfig", str(plane.kubeconfig_of(NAMESPACE, ROLE)), "--metrics-listen", f"{HOST}:{port}"),
        *("--operator-image", "registry.example/operator:1", "--trainer-image", "registry.example/trainer:1"),
    ]


def _audit_policy() -> Mapping[str, Any]:
    """Return the audit policy: times and names of everything, and what is written into a run's status."""
    status = {"level": "Request", "resources": [{"group": GROUP, "resources": [f"{PLURAL}/status"]}]}
    everything = {"level": "Metadata"}
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [status, everything],
    }


def _make_nodes(plane: ControlPlane, count: int) -> None:
    for number in range(count):
        name = f"node-{number}"
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", PLAYED: "yes"}
        status = {"allocatable": NODE_SIZE, "capacity": NODE_SIZE}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}
        plane.post("/api/v1/nodes", body)
    wait_for(lambda: _num_tainted(plane) == 0, f"{count} nodes are ready")


def _num_tainted(plane: ControlPlane) -> int:
    """Return how many nodes take no pods yet; the controllers take the taint away once a node is ready."""
    return sum(bool(node["spec"].get("taints")) for node in json.loads(plane.get("/api/v1/nodes"))["items"])


def _make_account(plane: ControlPlane) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
    for document in manifests(namespace=NAMESPACE, run_namespaces=[NAMESPACE]):
        place = f"/namespaces/{NAMESPACE}" if "namespace" in document["metadata"] else ""
        version, kind = document["apiVersion"], document["kind"]
        plane.post(f"/{'api' if version == 'v1' else 'apis'}/{version}{place}/{kind.lower()}s", document)
