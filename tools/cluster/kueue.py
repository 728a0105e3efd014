"""Kueue on the test's control plane: its controller as a process under its own account, its webhooks on loopback."""

import base64
import datetime as dt
import ipaddress
import json
import re
from collections.abc import Sequence
from pathlib import Path

from control_plane import ControlPlane, kubectl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from ports import HOST, free_port

from components import share

NAMESPACE, ACCOUNT = "kueue-system", "kueue-controller-manager"
GROUP, SERVICE, SECRET = "kueue.x-k8s.io", "kueue-webhook-service", "kueue-webhook-server-cert"
LEFT_OUT = ("APIService", "ConfigMap", "Deployment", "Secret", "Service")
"""Kinds of the manifests that serve a controller in a pod; ours is a process."""
_SERVICE = re.compile(
    r"clientConfig:\n( +)service:\n +name: kueue-webhook-service\n +namespace: kueue-system\n +path: (\S+)\n"
)
_FRAMEWORKS = ("batch/job", "pod")


def start_kueue(plane: ControlPlane, *, feature_gates: Sequence[str] = ()) -> None:
    """Install Kueue and start its controller; afterwards queues can be made and labelled Jobs wait in them.

    It is the program `kueue` of the control plane. While it is stopped or paused the API server creates neither Jobs
    nor pods, since its webhooks have to be asked: a test uses a control plane of its own for it.

    Args:
        plane: runs.
        feature_gates: more of them, as `ElasticJobsViaWorkloadSlices=true`.

    Raises:
        ComponentMissing: Kueue is not built.
        RuntimeError: it does not come up; the message holds the end of its log.
    """
    certificates = plane.folder / "kueue"
    certificates.mkdir()
    certificate, key = _certificate()
    (certificates / "tls.key").touch(mode=0o600)
    (certificates / "tls.key").write_bytes(key)
    (certificates / "tls.crt").write_bytes(certificate)
    webhooks = free_port()
    manifests = kubectl(plane, "kustomize", str(share("kueue", "config/default")))
    kinds = _by_kind(_told_where(manifests, f"https://{HOST}:{webhooks}", certificate))
    for kind in sorted(kinds, key=lambda kind: kind != "Namespace"):
        kubectl(plane, "apply", "--server-side", "-f", "-", stdin="\n---\n".join(kinds[kind]))
    plane.post(f"/api/v1/namespaces/{NAMESPACE}/secrets", _secret(certificate, key))
    configuration = plane.folder / "kueue.json"
    configuration.write_text(json.dumps(_configuration(certificates, webhooks)))
    arguments = ["--config", str(configuration), "--kubeconfig", str(plane.kubeconfig_of(NAMESPACE, ACCOUNT))]
    # The visibility server would listen on every address.
    gates = ",".join(["VisibilityOnDemand=false", *feature_gates])
    plane.run("kueue", [*arguments, "--feature-gates", gates], "kueue", "kueue")
    plane.wait(lambda: _answers(plane), "kueue")


def make_queue(
    plane: ControlPlane, namespace: str, *, accelerators: int, name: str = "gpu", preempts: bool = False
) -> None:
    """Make a LocalQueue with a ClusterQueue and a flavor of its own, both named like the namespace, which exists.

    Args:
        plane: has Kueue.
        namespace: of the LocalQueue.
        accelerators: nvidia.com/gpu of its quota; there is plenty of everything else.
        name: of the LocalQueue.
        preempts: workloads of a higher priority take the quota of others.
    """
    amounts = {"cpu": "100", "memory": "1Ti", "ephemeral-storage": "10Ti", "nvidia.com/gpu": str(accelerators)}
    quota = [{"name": resource, "nominalQuota": amount} for resource, amount in amounts.items()]
    group = {"coveredResources": list(amounts), "flavors": [{"name": namespace, "resources": quota}]}
    spec: dict[str, object] = {"namespaceSelector": {}, "resourceGroups": [group]}
    if preempts:
        spec["preemption"] = {"withinClusterQueue": "LowerPriority"}
    flavor = {"kind": "ResourceFlavor", "metadata": {"name": namespace}}
    cluster_queue = {"kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": spec}
    local = {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterQueue": namespace}}
    for document in (flavor, cluster_queue, {"kind": "LocalQueue", **local}):
        applied = json.dumps({"apiVersion": f"{GROUP}/v1beta2", **document})
        kubectl(plane, "apply", "--server-side", "-f", "-", stdin=applied)


def _answers(plane: ControlPlane) -> bool:
    """Tell whether the API server reaches the webhooks; raises OSError while it does not."""
    flavor = {"apiVersion": f"{GROUP}/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "is-it-there"}}
    plane.post(f"/apis/{GROUP}/v1beta2/resourceflavors?dryRun=All", flavor)
    return True


def _told_where(manifests: str, url: str, authority: bytes) -> str:
    """Return the manifests with every webhook, conversions too, at our address instead of a Service's."""
    bundle = base64.b64encode(authority).decode()
    told = _SERVICE.sub(rf"clientConfig:\n\g<1>url: {url}\g<2>\n\g<1>caBundle: {bundle}\n", manifests)
    if told == manifests:
        raise RuntimeError("the manifests of Kueue name their webhooks otherwise than before")
    return told


def _by_kind(manifests: str) -> dict[str, list[str]]:
    """Return the documents that are wanted here, by their kind."""
    found: dict[str, list[str]] = {}
    for document in manifests.split("\n---\n"):
        kind = re.search(r"^kind: (\S+)", document, re.MULTILINE)
        if kind is not None and kind[1] not in LEFT_OUT:
            found.setdefault(kind[1], []).append(document)
    return found


def _configuration(certificates: Path, webhooks: int) -> dict[str, object]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"{HOST}:{free_port()}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": HOST, "port": webhooks, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": True, "webhookServiceName": SERVICE, "webhookSecretName": SECRET},
        "integrations": {"frameworks": list(_FRAMEWORKS)},
    }


def _secret(certificate: bytes, key: bytes) -> dict[str, object]:
    """Return the Secret in which Kueue looks for its certificate before it makes one, which would not name loopback."""
    files = {"ca.crt": certificate, "ca.key": key, "tls.crt": certificate, "tls.key": key}
    data = {name: base64.b64encode(content).decode() for name, content in files.items()}
    return {"metadata": {"name": SECRET}, "data": data}


def _certificate() -> tuple[bytes, bytes]:
    """Return a certificate that is its own authority, for loopback and the names that Kueue checks, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kueue-ca")])
    names = [x509.DNSName("kueue-ca"), x509.DNSName(f"{SERVICE}.{NAMESPACE}.svc")]
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST)), *names])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=3650))  # with 90 days left it would make another one
        .add_extension(addresses, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
