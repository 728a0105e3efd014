"""Who may talk to whom: one NetworkPolicy for each role of a run.

    operator, Prometheus -> coordinator: progress       workers -> coordinator: launchers
    workers <-> workers: every port                     preflight, workers -> name service, object stores

Nothing else comes in, and the coordinator opens no connection at all.
"""

import ipaddress
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_launch.kubernetes.objects.metadata import WHOLE_RUN, metadata, selector
from sam3ft_launch.kubernetes.settings import LAUNCHER_PORT, PROGRESS_PORT, ClusterSettings

MACHINE_IDENTITY = ("169.254.169.254/32", "fd00:ec2::254/128")
"""Where clouds answer with the credentials of the machine."""
_NAMESPACE_NAME = "kubernetes.io/metadata.name"


def preflight_policy(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    """Return the policy of the check: it reaches the stores, and nobody reaches it."""
    return _policy(plan, names.ROLE_PREFLIGHT, ingress=[], egress=_outside(plan, settings))


def worker_policy(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    """Return the policy of the workers: each other, the coordinator, the stores."""
    peers = _pods(plan, names.ROLE_WORKER)
    coordinator = {"to": [_pods(plan, names.ROLE_COORDINATOR)], "ports": [_tcp(LAUNCHER_PORT)]}
    return _policy(
        plan,
        names.ROLE_WORKER,
        ingress=[{"from": [peers]}],
        egress=[{"to": [peers]}, coordinator, *_outside(plan, settings)],
    )


def coordinator_policy(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    """Return the policy of the coordinator: workers join, operator and Prometheus look."""
    viewers: list[dict[str, Any]] = [
        {
            "namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: settings.operator_namespace}},
            "podSelector": {"matchLabels": dict(settings.operator_labels)},
        }
    ]
    if settings.prometheus_namespace_labels:
        viewers.append({"namespaceSelector": {"matchLabels": dict(settings.prometheus_namespace_labels)}})
    return _policy(
        plan,
        names.ROLE_COORDINATOR,
        ingress=[
            {"from": [_pods(plan, names.ROLE_WORKER)], "ports": [_tcp(LAUNCHER_PORT)]},
            {"from": viewers, "ports": [_tcp(PROGRESS_PORT)]},
        ],
        egress=[],
    )


def _policy(plan: JobPlan, role: str, *, ingress: list[dict[str, Any]], egress: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(plan, names.policy_name(plan.name, role), role=role, attempt=WHOLE_RUN),
        "spec": {
            "podSelector": {"matchLabels": selector(plan, role=role)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def _outside(plan: JobPlan, settings: ClusterSettings) -> list[dict[str, Any]]:
    """Return the rules for the name service, wherever it runs (a pod, a daemon of the node), and for the stores.

    A run with credentials of its own has no business with the machine's.
    """
    forbidden = MACHINE_IDENTITY if plan.storage.secret else ()
    stores = [{"ipBlock": _block(cidr, forbidden)} for cidr in settings.store_cidrs]
    if settings.store_namespace_labels:
        stores.append({"namespaceSelector": {"matchLabels": dict(settings.store_namespace_labels)}})
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return [{"ports": ports}, *([{"to": stores}] if stores else [])]


def _block(cidr: str, forbidden: tuple[str, ...]) -> dict[str, Any]:
    inside = [address for address in forbidden if _is_inside(ipaddress.ip_network(address), ipaddress.ip_network(cidr))]
    return {"cidr": cidr, **({"except": inside} if inside else {})}


def _is_inside(small: IPv4Network | IPv6Network, large: IPv4Network | IPv6Network) -> bool:
    if isinstance(small, IPv4Network):
        return isinstance(large, IPv4Network) and small != large and small.subnet_of(large)
    return isinstance(large, IPv6Network) and small != large and small.subnet_of(large)


def _pods(plan: JobPlan, role: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": selector(plan, role=role)}}


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
