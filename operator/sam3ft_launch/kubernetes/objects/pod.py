"""What the pods of all roles have in common: the restricted Pod Security Standard, folders, times, mounts."""

from typing import Any

from sam3ft_launch.kubernetes.settings import ClusterSettings

RUN_DIR = "/etc/sam3ft/run"
"""Where the run's ConfigMap is mounted."""
CA_DIR = "/etc/sam3ft/ca"
"""Where the ConfigMap with the authorities to be trusted is mounted."""
CREDENTIALS_DIR = "/var/run/secrets/sam3ft/run"
DATA_CREDENTIALS_DIR = "/var/run/secrets/sam3ft/data"
WORK_DIR = "/var/lib/sam3ft"
CACHE_DIR = "/var/cache/sam3ft"
TERMINATION_LOG = "/dev/termination-log"
"""Where the kubelet looks for a container's last word."""
POD_IP_VARIABLE = "POD_IP"
"""Variable with the pod's address, which arguments refer to as `$(POD_IP)`."""


def restricted_pod(settings: ClusterSettings) -> dict[str, Any]:
    """Return the fields of a pod's spec that keep it away from the cluster and the node.

    No token of a ServiceAccount, no variables that name the namespace's Services, no root.
    """
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.run_as_user is not None:
        security |= {"runAsUser": settings.run_as_user, "runAsGroup": settings.run_as_user}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
    }


def restricted_container() -> dict[str, Any]:
    """Return the security context of every container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def last_words() -> dict[str, Any]:
    """Return where a container's last word is read; the end of its log where it left none, as after a crash."""
    return {"terminationMessagePath": TERMINATION_LOG, "terminationMessagePolicy": "FallbackToLogsOnError"}


def leaves_dead_nodes(settings: ClusterSettings) -> list[dict[str, Any]]:
    """Return the tolerations that end a pod soon after its node stops answering; the default is five minutes."""
    return [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": settings.unreachable_s,
        }
        for state in ("not-ready", "unreachable")
    ]


def variable(name: str, value: str) -> dict[str, Any]:
    """Return one variable; a dollar sign means itself, Kubernetes expands nothing in it."""
    return {"name": name, "value": value.replace("$", "$$")}


def pod_ip() -> dict[str, Any]:
    """Return the variable with the pod's address."""
    return {"name": POD_IP_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def pull_secrets(names: tuple[str, ...]) -> dict[str, Any]:
    """Return the registry logins of a pod; nothing without any."""
    return {"imagePullSecrets": [{"name": name} for name in names]} if names else {}
