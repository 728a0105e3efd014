"""What users of runs may do, as roles for people; what the command line needs is in them and nothing more."""

from typing import Any

from sam3ft_api.spec import GROUP, PLURAL

_TO_VIEW: tuple[dict[str, Any], ...] = (
    {"apiGroups": [GROUP], "resources": [PLURAL, f"{PLURAL}/status"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]},
)
_TO_EDIT: tuple[dict[str, Any], ...] = (
    {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["create", "update", "patch", "delete"]},
    {"apiGroups": [GROUP], "resources": [f"{PLURAL}/scale"], "verbs": ["get", "update", "patch"]},
)


def user_roles() -> list[dict[str, Any]]:
    """Return two ClusterRoles that the built-in roles `view` and `edit` (and `admin`) take over.

    The first is enough for `sam3ft status`, `logs`, `events` and `explain`; `run`, `scale`, `suspend`, `resume`,
    `retry` and `cancel` need the second one as well. No one may write a status, and no one needs a Secret.
    """
    return [
        _role("sam3ft-viewer", _TO_VIEW, into=("view", "edit", "admin")),
        _role("sam3ft-editor", (*_TO_VIEW, *_TO_EDIT), into=("edit", "admin")),
    ]


def _role(name: str, rules: tuple[dict[str, Any], ...], *, into: tuple[str, ...]) -> dict[str, Any]:
    labels = {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true" for role in into}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "sam3ft", **labels}},
        "rules": list(rules),
    }
