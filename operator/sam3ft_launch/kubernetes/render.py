"""From a plan to every object that one attempt needs: pure, so that it can be shown and compared before it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam3ft_api.plan import JobPlan
from sam3ft_launch.kubernetes.settings import ClusterSettings

ApiObject = dict[str, Any]
"""An object of the Kubernetes API as plain JSON."""
PARTS = ("preflight", "group", "workers")
"""Names of the parts, in the order in which they are made."""


@dataclass(frozen=True, slots=True)
class KubernetesSubmission:
    """Every object of one attempt.

    Attributes:
        uid: identity of the run.
        attempt: its number.
        parts: `preflight`, `group` and `workers`, each with its objects in the order in which they are created.
    """

    uid: str
    attempt: int
    parts: Mapping[str, tuple[ApiObject, ...]]

    @property
    def key(self) -> tuple[str, int]:
        """(uid, attempt): what makes `submit` idempotent."""
        return (self.uid, self.attempt)

    @property
    def objects(self) -> tuple[ApiObject, ...]:
        """All objects, in the order in which they are created."""
        return tuple(thing for part in PARTS for thing in self.parts[part])

    def __str__(self) -> str:
        """Return all objects as YAML documents; values of Secrets are left out."""
        raise NotImplementedError


def render(plan: JobPlan, settings: ClusterSettings) -> KubernetesSubmission:
    """Return what one attempt needs; equal arguments give equal objects.

    Args:
        plan: made by `plan_on_cluster` with the same settings.
        settings: of the cluster.
    """
    raise NotImplementedError
