"""What an agent may do on the cluster, and its first token: made once by somebody who may make accounts.

Four things, all in one namespace: list the runs, write their status, keep one Lease, and renew its own token. No
Secret, no pod, no event: credentials for data stay on the site, and events are the operator's.
"""

from pathlib import Path
from typing import Any

from sam3ft_api import names
from sam3ft_api.spec import GROUP, PLURAL
from sam3ft_launch.kubernetes.api import APPLY, Api
from sam3ft_launch.kubernetes.kinds import ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from sam3ft_launch.slurm.agent.cluster import token_of
from sam3ft_launch.slurm.agent.files import kubeconfig_of

_MANAGER = "sam3ft"


def rules(site: str) -> list[dict[str, Any]]:
    """Return the rules of a site's agent."""
    name = names.agent_name(site)
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    return [
        {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["list"]},
        {"apiGroups": [GROUP], "resources": [f"{PLURAL}/status"], "verbs": ["patch"]},
        {**leases, "verbs": ["create"]},  # a name cannot be given for it
        {**leases, "resourceNames": [name], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [name], "verbs": ["create"]},
    ]


def objects(site: str, namespace: str) -> list[dict[str, Any]]:
    """Return ServiceAccount, Role and RoleBinding of a site's agent."""
    name, rbac = names.agent_name(site), "rbac.authorization.k8s.io"
    metadata = {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "sam3ft"}}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "automountServiceAccountToken": False,
        },
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": rules(site)},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]


def enrol(api: Api, site: str, namespace: str) -> None:
    """Make the agent's account and rights, or bring them up to date.

    Raises:
        ApiProblem: the API server refused; whoever enrols must be allowed to make Roles in the namespace.
    """
    kinds = {kind.name: kind for kind in (SERVICE_ACCOUNT, ROLE, ROLE_BINDING)}
    for body in objects(site, namespace):
        api.patch(
            kinds[body["kind"]],
            namespace,
            body["metadata"]["name"],
            body,
            manager=_MANAGER,
            content_type=APPLY,
            options={"force": "true"},
        )


def first_kubeconfig(api: Api, site: str, namespace: str, *, seconds: int) -> dict[str, Any]:
    """Return the kubeconfig of an agent that has been enrolled, with its first token.

    Raises:
        ApiProblem: the API server gives no token.
        OSError: the certificate of its authority cannot be read.
    """
    name, configuration = names.agent_name(site), api.configuration
    authority = Path(configuration.ssl_ca_cert).read_bytes() if configuration.ssl_ca_cert else None
    token = token_of(api, namespace, name, seconds=seconds)
    return kubeconfig_of(
        server=str(configuration.host), authority=authority, namespace=namespace, account=name, token=token
    )
