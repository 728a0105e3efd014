"""What the operator may do, as data, next to the code that needs it: `python -m sam3ft_operator.rbac` prints it.

No wildcard, no `get` or `list` of Secrets (a run's key is made and never read), no `exec`, nothing about nodes. The
rules of runs are a ClusterRole, bound once for the whole cluster or in each namespace; the Lease is a Role of the
operator's own namespace.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sam3ft_api.crd import to_yaml
from sam3ft_api.spec import GROUP, PLURAL

ROLE = "sam3ft-operator"
LEASE_NAME = "sam3ft-operator"
DEFAULT_NAMESPACE = "sam3ft-system"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule and its reason.

    Attributes:
        group: API group; empty for the core.
        resources: plural names, with their subresources.
        verbs: what may be done.
        why: which code needs it.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str

    def to_rule(self) -> dict[str, Any]:
        """Return the rule as a PolicyRule."""
        return {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}


RUN_RULES = (
    Rule(
        GROUP,
        (PLURAL,),
        ("get", "list", "watch"),
        "finetunes: kopf's watch and the slow list; reconcile after a conflict",
    ),
    Rule(GROUP, (PLURAL,), ("patch",), "effects: the finalizer of a run on SLURM"),
    Rule("coordination.k8s.io", ("leases",), ("get",), "agents: signs of life of the agents of SLURM sites"),
    Rule(GROUP, (f"{PLURAL}/status",), ("patch",), "reconcile: the one status write"),
    Rule("batch", ("jobs",), ("get", "list", "watch", "create", "patch", "delete"), "watch, effects"),
    Rule("", ("pods",), ("get", "list", "watch", "create", "delete"), "watch, effects: the coordinator's pod"),
    Rule("", ("pods/status",), ("patch",), "effects: ends a pod on a dead node"),
    Rule("", ("services", "configmaps"), ("get", "list", "watch", "create", "delete"), "watch, effects"),
    Rule("networking.k8s.io", ("networkpolicies",), ("get", "list", "watch", "create", "delete"), "watch, effects"),
    Rule("", ("secrets",), ("create", "delete"), "effects: the key of a run, which is never read"),
    Rule("kueue.x-k8s.io", ("workloads",), ("list", "patch"), "effects: a run with a queue is paused by its Workload"),
    Rule("", ("events",), ("create", "patch", "list"), "notes; trouble: why a Job has no pods"),
)
"""Rules for the namespaces in which runs live."""


def lease_rules(name: str = LEASE_NAME) -> list[dict[str, Any]]:
    """Return the rules for the Lease: a name cannot be given for `create`."""
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    return [{**leases, "verbs": ["create"]}, {**leases, "resourceNames": [name], "verbs": ["get", "update"]}]


def manifests(
    *, namespace: str = DEFAULT_NAMESPACE, run_namespaces: Sequence[str] = (), service_account: str = ROLE
) -> list[dict[str, Any]]:
    """Return ServiceAccount, roles and bindings.

    Args:
        namespace: of the operator and its Lease.
        run_namespaces: where runs live; empty binds for the whole cluster.
        service_account: name of the operator's account.
    """
    subject = {"kind": "ServiceAccount", "name": service_account, "namespace": namespace}
    rbac, labels = "rbac.authorization.k8s.io", {"app.kubernetes.io/part-of": "sam3ft"}

    def named(kind: str, name: str, where: str = "", group: str = f"{rbac}/v1") -> dict[str, Any]:
        place = {"namespace": where} if where else {}
        return {"apiVersion": group, "kind": kind, "metadata": {"name": name, **place, "labels": labels}}

    def bound(kind: str, role_kind: str, name: str, where: str = "") -> dict[str, Any]:
        role = {"apiGroup": rbac, "kind": role_kind, "name": name}
        return {**named(kind, name, where), "roleRef": role, "subjects": [subject]}

    runs = named("ClusterRole", ROLE) | {"rules": [rule.to_rule() for rule in RUN_RULES]}
    lease = named("Role", f"{ROLE}-lease", namespace) | {"rules": lease_rules()}
    bindings = [bound("RoleBinding", "ClusterRole", ROLE, where) for where in run_namespaces]
    return [
        named("ServiceAccount", service_account, namespace, "v1"),
        runs,
        lease,
        *(bindings or [bound("ClusterRoleBinding", "ClusterRole", ROLE)]),
        bound("RoleBinding", "Role", f"{ROLE}-lease", namespace),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifests as YAML documents."""
    parser = argparse.ArgumentParser(prog="python -m sam3ft_operator.rbac", description=manifests.__doc__)
    parser.add_argument("--namespace", default=DEFAULT_NAMESPACE, help="of the operator (default: %(default)s)")
    parser.add_argument("--run-namespace", action="append", default=[], help="where runs live; default: everywhere")
    given = parser.parse_args(arguments)
    found = manifests(namespace=given.namespace, run_namespaces=given.run_namespace)
    sys.stdout.write("---\n".join(to_yaml(document) for document in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
